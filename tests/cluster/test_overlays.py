"""The overlays on a real API server, and what comes up of them."""

from __future__ import annotations

import base64
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.k8s import check
from tests.cluster.kubernetes import Kubernetes


@pytest.mark.parametrize("name", ["local", "production", "nodes"])
def test_an_overlay_is_accepted_whole(deployed: Kubernetes, name: str):
    rendered = [one for one in check.render(check.HERE / "overlays" / name) if name == "local" or new(one)]
    done = deployed(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--dry-run=server",
        "--filename=-",
        input=yaml.safe_dump_all(rendered),
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unknown field" not in done.stderr


def new(resource: dict[str, Any]) -> bool:
    """Whether it may differ from what the local overlay has made: a claim's class stays what it was."""
    return resource["kind"] != "PersistentVolumeClaim"


def test_another_tag_can_be_applied(deployed: Kubernetes, overlay: Path):
    rendered = check.render(overlay)
    text = yaml.safe_dump_all(rendered).replace(":0.1.0\n", ":0.2.0\n")
    assert ":0.2.0" in text
    done = deployed("apply", "--server-side", "--force-conflicts", "--dry-run=server", "--filename=-", input=text)
    assert "immutable" not in done.stderr


def secret(kubernetes: Kubernetes, namespace: str, name: str) -> dict[str, str]:
    found = kubernetes.get("secret", name, f"--namespace={namespace}")["data"]
    return {key: base64.b64decode(value).decode() for key, value in found.items()}


@pytest.fixture(scope="module")
def mlflow(deployed: Kubernetes) -> Iterator[str]:
    with deployed.forwarded("mlflow", "mlflow", 5000) as address:
        yield address


def ask(address: str, path: str, login: str = "", body: Any = None) -> tuple[int, str]:
    headers = {"Content-Type": "application/json"}
    if login:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(address + path, data, headers), timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_mlflows_users_have_their_rights_and_no_more(deployed: Kubernetes, mlflow: str):
    mine = secret(deployed, "kubeflow", "segmodels")
    pipeline = f"{mine['MLFLOW_TRACKING_USERNAME']}:{mine['MLFLOW_TRACKING_PASSWORD']}"
    search = "/api/2.0/mlflow/experiments/search"
    assert ask(mlflow, search, body={"max_results": 1})[0] == 401
    assert ask(mlflow, search, "pipeline:wrong", {"max_results": 1})[0] == 401
    assert ask(mlflow, search, pipeline, {"max_results": 1})[0] == 200
    assert ask(mlflow, "/api/2.0/mlflow/users/create", pipeline, {"username": "x", "password": "y" * 12})[0] == 403
    # To an account that is no administrator a model that is not there is one that it may not read.
    assert ask(mlflow, "/api/2.0/mlflow/registered-models/alias?name=none&alias=champion", pipeline)[0] == 403


def test_before_the_first_model_the_server_is_alive_and_says_what_it_waits_for(deployed: Kubernetes):
    if deployed.get("deployment", "serving", "--namespace=segmodels")["status"].get("readyReplicas"):
        pytest.skip("a model is registered already: the cluster was kept")

    def said() -> str:
        return deployed("logs", "deployment/serving", "--namespace=segmodels", check=False).stdout

    deployed.wait(lambda: "has no model 'segmentation'" in said(), 300)
    assert "403" not in said() and "Permission denied" not in said()
    (pod,) = deployed.get("pods", "--namespace=segmodels")["items"]
    assert pod["status"]["phase"] == "Running"
    assert not any(status["ready"] for status in pod["status"]["containerStatuses"])
