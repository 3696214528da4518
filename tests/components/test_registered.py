"""Registered models, served and predicted with: against a real MLflow store, while requests run."""

from __future__ import annotations

import re
import shutil
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.register import step
from components.registered import KEPT, RegisteredModel
from components.tracking import MODEL_TAG, Store
from segmodels.artifacts.sources import SourceError, UnreachableError, Version
from segmodels.cli import main
from segmodels.settings.schema import PredictSettings
from tests.segmodels.serving.running import SECONDS, Server, encoded, serving, write_model

NAME = "segmentation"
CHAMPION = f"models:/{NAME}@champion"


def register(results: Any, always: int) -> str:
    """Registers a model that sees the same class everywhere; gives its version."""
    folder = results.models["unet"]
    history = (folder / "history.csv").read_bytes()
    write_model(folder, always)
    (folder / "history.csv").write_bytes(history)
    only: dict[str, Any] = {
        k: v if k in ("data", "validation") else {"unet": v["unet"]} for k, v in results.folders.items()
    }
    done = step.run(results.params, **only, out=Path("outputs/register.json"), lineage=results.lineage)
    return str(done.versions[0].version)


@pytest.fixture(scope="module")
def versions(module_results) -> dict[str, int]:
    """Version -> the class that it sees everywhere."""
    return {register(module_results, always): always for always in (1, 2)}


@pytest.fixture(scope="module")
def store(module_results, versions) -> Store:
    made = Store(None)
    promote(made, min(versions))
    return made


def promote(store: Store, version: str) -> None:
    store.client.set_registered_model_alias(NAME, "champion", version)


@pytest.fixture(scope="module")
def server(module_results, store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("serve")
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{module_results.root}/mlflow.db", "SEGMODELS_CACHE": str(folder)}
    with serving(CHAMPION, folder / "serve.log", **env) as running:
        running.wait(running.is_ready)
        yield running


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    return tmp_path / "cache"


IMAGE = encoded(np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8))


def is_of(server: Server, version: str) -> bool:
    return server.ask("/ready").model[1] == version


def test_a_promotion_drops_no_request_and_mixes_no_models(server: Server, store: Store, versions) -> None:
    second = max(versions)
    seen: list[tuple[int, str, frozenset[int]]] = []
    enough = threading.Event()

    def ask() -> None:
        while not enough.is_set():
            reply = server.ask("/predict", IMAGE)
            seen.append((reply.status, reply.model[1], frozenset(np.unique(reply.classes).tolist())))

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    try:
        server.wait(lambda: len(seen) > 30)
        promote(store, second)
        server.wait(lambda: is_of(server, second))
        answered = len(seen)
        server.wait(lambda: len(seen) > answered + 30)
    finally:
        enough.set()
        for thread in threads:
            thread.join(SECONDS)
    assert {(200, version, frozenset({label})) for version, label in versions.items()} == set(seen)
    assert server.metric("segmodels_swaps_total") == 1
    sha256 = store.client.get_model_version(NAME, second).tags[MODEL_TAG]
    assert server.ask("/predict", IMAGE).model == (NAME, second, sha256)


def test_a_version_that_cannot_be_loaded_leaves_the_one_before_serving(server: Server, store: Store, versions) -> None:
    first, second = sorted(versions)
    promote(store, second)
    server.wait(lambda: is_of(server, second))
    good = store.client.get_model_version(NAME, first)
    broken = store.client.create_model_version(NAME, good.source, good.run_id, tags={MODEL_TAG: "0" * 64})
    before = server.metric("segmodels_swap_failures_total")
    promote(store, broken.version)
    server.wait(lambda: server.metric("segmodels_swap_failures_total") > before)
    reply = server.ask("/predict", IMAGE)
    assert reply.status == 200 and reply.model[1] == second
    said = server.log.read_text()
    assert f"models:/{NAME}/{broken.version}: its weights have the hash" in said
    assert f"version {second} goes on serving" in said
    promote(store, first)
    server.wait(lambda: is_of(server, first))
    assert (server.ask("/predict", IMAGE).classes == versions[first]).all()


def test_while_mlflow_is_away_the_server_goes_on_and_then_follows_again(server: Server, store: Store, versions) -> None:
    first, second = sorted(versions)
    promote(store, first)
    server.wait(lambda: is_of(server, first))
    database = sqlite3.connect(store.uri.removeprefix("sqlite:///"), isolation_level=None)
    database.execute("BEGIN EXCLUSIVE")  # nobody else can read it
    try:
        server.wait(lambda: server.metric("segmodels_source_up") == 0)
        reply = server.ask("/predict", IMAGE)
        assert reply.status == 200 and reply.model[1] == first
        assert server.ask("/ready").status == 200
        alias = "UPDATE registered_model_aliases SET version = ? WHERE alias = 'champion'"
        database.execute(alias, (second,))
    finally:
        database.execute("COMMIT")
        database.close()
    server.wait(lambda: is_of(server, second))
    assert server.metric("segmodels_source_up") == 1


def test_predict_takes_the_address_of_a_registered_model(store, versions, cache, monkeypatch, tmp_path, capsys) -> None:
    monkeypatch.setenv("SEGMODELS_CACHE", str(cache))
    first, _ = sorted(versions)
    image = tmp_path / "a.png"
    image.write_bytes(IMAGE)
    out = tmp_path / "out"
    with pytest.raises(SystemExit, match="0"):
        main(["predict", str(image), "--model", f"models:/{NAME}/{first}", "--out", str(out)])
    assert (np.asarray(Image.open(out / "a.png")) == versions[first]).all()
    assert main(["predict", str(image), "--model", f"models:/{NAME}@nobody", "--out", str(out)]) == 1
    assert f"models:/{NAME}@nobody: MLflow at sqlite:///mlflow.db refuses" in capsys.readouterr().err


def test_a_version_is_downloaded_once_and_used_as_it_was_evaluated(store, versions, cache) -> None:
    first, second = sorted(versions)
    promote(store, first)
    source = RegisteredModel(CHAMPION, cache)
    version = source.latest()
    assert (version.name, version.number) == (NAME, first)
    fetched = source.fetch(version)
    assert fetched.sha256 == version.sha256 and fetched.settings == PredictSettings()
    evaluated = Path("outputs/evaluation/unet/profile.json").read_bytes()
    assert fetched.profile is not None and fetched.profile.read_bytes() == evaluated
    made = (fetched.folder / "model.safetensors").stat().st_mtime_ns
    assert source.fetch(version).folder == fetched.folder
    assert (fetched.folder / "model.safetensors").stat().st_mtime_ns == made
    promote(store, second)
    assert source.latest().key != version.key
    (folder,) = (cache / NAME).iterdir()
    assert folder.name == version.key


def test_what_served_last_is_remembered_for_each_address_and_registry(store, versions, cache, monkeypatch) -> None:
    promote(store, min(versions))
    source = RegisteredModel(CHAMPION, cache)
    version = source.latest()
    source.fetch(version)
    assert source.remembered() is None
    source.remember(version)
    assert RegisteredModel(CHAMPION, cache).remembered() == version
    assert RegisteredModel(f"models:/{NAME}@challenger", cache).remembered() is None
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        assert RegisteredModel(CHAMPION, cache).remembered() is None
    shutil.rmtree(cache / NAME / version.key)
    assert source.remembered() is None, "its files are not on this machine any more"


def test_no_answer_is_told_from_the_answer_that_there_is_none(store, versions, cache, monkeypatch) -> None:
    with pytest.raises(SourceError, match="refuses") as refused:
        RegisteredModel(f"models:/{NAME}@nobody", cache).latest()
    with pytest.raises(SourceError, match="refuses") as unknown:
        RegisteredModel("models:/nothing@champion", cache).latest()
    assert UnreachableError not in (refused.type, unknown.type)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
    with pytest.raises(UnreachableError, match="does not answer"):
        RegisteredModel(CHAMPION, cache).latest()


def test_the_cache_keeps_the_versions_that_were_used_last(store, versions, cache) -> None:
    source = RegisteredModel(f"models:/{NAME}/{min(versions)}", cache)
    version = source.latest()
    kept = source.fetch(version).folder
    for number in range(KEPT + 2):
        shutil.copytree(cache / NAME / version.key, cache / NAME / f"old-{number}")
    source.fetch(version)
    assert len(list((cache / NAME).iterdir())) == KEPT and kept.is_dir()


def test_a_version_that_is_no_model_of_ours_is_named(store, versions, cache) -> None:
    source = RegisteredModel(f"models:/{NAME}/{min(versions)}", cache)
    version = source.latest()
    model = source.fetch(version).folder
    (model / "model.json").unlink()
    with pytest.raises(SourceError, match="not a model folder"):
        source.fetch(version)
    with pytest.raises(SourceError, match=rf"models:/{NAME}/99"):
        source.fetch(Version(NAME, "99", "", "99-x"))


@pytest.mark.parametrize("tag", ["/../../pwned", "..\\..\\pwned", "x" * 300, "a\nb"])
def test_a_tag_of_the_registry_names_no_folder_elsewhere(store: Store, tmp_path: Path, tag: str) -> None:
    good = store.client.get_model_version_by_alias(NAME, "champion")
    hostile = store.client.create_model_version(NAME, good.source, good.run_id, tags={MODEL_TAG: tag})
    try:
        model = RegisteredModel(f"models:/{NAME}/{hostile.version}", tmp_path / "cache/models")
        with pytest.raises(SourceError, match=re.escape(f"models:/{NAME}/{hostile.version}: folder ")):
            model.fetch(model.latest())
        assert not (tmp_path / "cache").exists()
    finally:
        store.client.delete_model_version(NAME, hostile.version)


def test_a_model_called_as_the_folder_above_has_no_cache(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"folder '\.\.' is no name"):
        RegisteredModel("models:/..@champion", tmp_path / "cache")
