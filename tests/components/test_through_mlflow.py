"""An object store that MLflow's server alone can reach: files come through MLflow."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from components import promotion
from components.register import step
from components.registered import RegisteredModel
from components.tracking import THROUGH_MLFLOW, Store, TrackingError
from pipeline.trace import describe
from tests.components.conftest import Results
from tests.servers import mlflow as mlflow_server
from tests.servers.mlflow import MLflow
from tests.servers.swift import Swift

NAME = "segmentation"
# An address at which nobody listens; in the server's process it leads to the store.
HOST = "127.77.77.77"
RESOLVES = f"""
import socket
found = socket.getaddrinfo
socket.getaddrinfo = lambda host, *rest, **named: found("127.0.0.1" if host == "{HOST}" else host, *rest, **named)
"""


@pytest.fixture(scope="module")
def server(swift: Swift, tmp_path_factory: pytest.TempPathFactory) -> Iterator[MLflow]:
    folder = tmp_path_factory.mktemp("mlflow")
    (folder / "python").mkdir()
    (folder / "python" / "sitecustomize.py").write_text(RESOLVES)
    store = swift.bucket("through-mlflow")
    port = urlsplit(swift.url).port
    environment = {**swift.environment, "AWS_ENDPOINT_URL": f"http://{HOST}:{port}"}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "python"), os.environ.get("PYTHONPATH", "")])
    with mlflow_server.serving(folder, f"sqlite:///{folder / 'mlflow.db'}", store, environment) as running:
        yield running


@pytest.fixture
def away(server: MLflow, results: Results, monkeypatch: pytest.MonkeyPatch) -> Results:
    """Trained models, at a desk that reaches MLflow and not its store."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    for name in THROUGH_MLFLOW:
        monkeypatch.delenv(name, raising=False)
    return results


def register(results: Results) -> str:
    done = step.run(results.params, **results.folders, out=Path("outputs/register.json"), lineage=results.lineage)
    return str(done.versions[0].version)


def test_registering_against_a_champion_tracing_and_fetching_need_mlflow_alone(away: Results, tmp_path: Path):
    version = register(away)
    promotion.promote(Store(None), NAME, version, why="the first", who="ada")
    # The gate now reads what the champion was measured with.
    assert register(away) == version
    assert f"{NAME} {version}, " in describe(f"models:/{NAME}@champion")
    model = RegisteredModel(f"models:/{NAME}@champion", tmp_path / "cache")
    assert (model.fetch(model.latest()).folder / "model.safetensors").stat().st_size > 0


def test_an_address_that_cannot_be_reached_is_not_called_a_refusal(away: Results, monkeypatch, tmp_path: Path):
    version = register(away)
    monkeypatch.setenv("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "true")
    # For chunks MLflow has no setting for how often and how long it waits: minutes for each file.
    monkeypatch.setattr("urllib3.util.retry.Retry.sleep", lambda *waiting: None)
    with pytest.raises(TrackingError, match=r"the object store of MLflow at .* cannot be reached from here; MLFLOW_"):
        Store(None, retries=0).download(f"models:/{NAME}/{version}", tmp_path)
