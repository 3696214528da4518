"""Tracking: the run of a model is found by its key, live curves never double and never stop a training."""

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from components import tracking
from components.lineage import collect
from components.lock import project_folder
from components.metric_names import finite, mlflow_names
from components.params import Params
from components.tracking import MODEL_TAG, Store, public_uri, tracking_uri
from components.train.run_logger import RunLogger
from tests.servers import ports


def history(run_id: str, metric: str) -> list[tuple[int, float]]:
    points = Store("segmentation").client.get_metric_history(run_id, metric)
    return sorted((point.step, point.value) for point in points)


def runs(results, key: str = "enet") -> list[tracking.Run]:
    return Store("segmentation").runs(results.lineage.tags(key))


def status(run: tracking.Run) -> str:
    return str(run.store.client.get_run(run.id).info.status)


def test_the_default_store_lies_in_the_working_directory(tmp_path: Path):
    assert tracking_uri(tmp_path, {}) == f"sqlite:///{tmp_path}/mlflow.db"
    assert tracking_uri(tmp_path, {"MLFLOW_TRACKING_URI": "http://mlflow:5000"}) == "http://mlflow:5000"


@pytest.mark.parametrize("workspace", ["tmpab12cd", "standalone/tmpab12cd", "tmpab12cd/sub/folder"])
def test_queued_experiments_share_the_store_of_their_repository(tmp_path: Path, workspace: str):
    inside = tmp_path / "repo" / ".dvc" / "tmp" / "exps" / workspace
    inside.mkdir(parents=True)
    assert project_folder(inside) == tmp_path / "repo"


def test_an_address_is_shown_without_its_password(tmp_path: Path):
    assert public_uri("https://me:secret@mlflow.example/path", tmp_path) == "https://mlflow.example/path"
    assert public_uri("postgresql://me:secret@db:5432/mlflow", tmp_path) == "postgresql://db:5432/mlflow"
    assert public_uri(f"sqlite:///{tmp_path}/mlflow.db", tmp_path) == "sqlite:///mlflow.db"
    assert public_uri("sqlite:////elsewhere/mlflow.db", tmp_path) == "sqlite:////elsewhere/mlflow.db"


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, components.tracking; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_live_curves_of_a_resumed_training_stay_one_run_without_doubled_epochs(results):
    with pytest.raises(KeyboardInterrupt), RunLogger(results.params, "enet", results.lineage) as logger:
        for epoch in (1, 2):
            logger.log({"train_loss": 2.0 / epoch, "val_miou": None, "val_loss": float("nan")}, step=epoch)
        raise KeyboardInterrupt
    (run,) = runs(results)
    assert status(run) == "KILLED"
    with RunLogger(results.params, "enet", results.lineage) as logger:
        for epoch in (2, 3):
            logger.log({"train_loss": 2.0 / epoch, "val_miou": 0.1}, step=epoch)
    (run,) = runs(results)
    assert status(run) == "FINISHED"
    assert history(run.id, "train_loss") == [(1, 2.0), (2, 1.0), (3, 2.0 / 3)]
    assert history(run.id, "val_miou") == [(2, 0.1), (3, 0.1)]
    assert history(run.id, "val_loss") == []


def test_a_training_that_fails_is_a_failed_run(results):
    with pytest.raises(ValueError, match="loss"), RunLogger(results.params, "enet", results.lineage) as logger:
        logger.log({"train_loss": 2.0}, step=1)
        raise ValueError("the loss is no number")
    (run,) = runs(results)
    assert status(run) == "FAILED"


def test_another_training_under_the_same_key_gets_a_run_of_its_own(results):
    with RunLogger(results.params, "enet", results.lineage) as logger:
        logger.log({"train_loss": 2.0}, step=1)
    with RunLogger(results.params, "enet", results.lineage) as logger:
        logger.log({"train_loss": 1.5}, step=1)
        logger.log({"train_loss": 1.2}, step=2)
    newer, older = runs(results)
    assert history(newer.id, "train_loss") == [(1, 1.5), (2, 1.2)]
    assert history(older.id, "train_loss") == [(1, 2.0)]


def test_each_architecture_and_setting_has_its_own_run(results):
    other = Params.parse({**results.params.model_dump(mode="json", by_alias=True), "seed": 5})
    for params, key in ((results.params, "enet"), (results.params, "unet"), (other, "enet")):
        with RunLogger(params, key, collect(params, results.data)) as logger:
            logger.log({"train_loss": 1.0}, step=1)
    assert len(runs(results, "enet")) == len(runs(results, "unet")) == 1


def test_a_run_that_holds_other_weights_is_left_as_it_is(results):
    store, tags = Store("segmentation"), results.lineage.tags("enet")
    first = store.run_of("enet", tags, "aa", {})
    first.set_tags({MODEL_TAG: "aa"})
    assert store.run_of("enet", tags, "aa", {}).id == first.id
    second = store.run_of("enet", tags, "bb", {})
    assert second.id != first.id
    assert store.run_of("enet", tags, "bb", {}).id == second.id


def test_a_run_whose_creator_was_killed_before_it_decided_is_taken_over(results, monkeypatch):
    monkeypatch.setattr(tracking, "PAUSE", (0.0, 0.01))
    store, tags = Store("segmentation"), results.lineage.tags("enet")
    left = store.create_run("enet", {**tags, tracking.SETTLING: "true"})
    assert store.run_of("enet", tags, "aa", {}).id == left.id
    (run,) = runs(results)
    assert tracking.SETTLING not in run.tags


def test_of_runs_and_versions_that_were_created_at_once_one_stays(results, monkeypatch):
    monkeypatch.setattr(tracking, "PAUSE", (0.0, 0.01))
    store, tags = Store("segmentation"), results.lineage.tags("enet")
    others: list[tracking.Run] = []

    def found() -> list[tracking.Run]:
        seen = store.runs(tags)
        if not others:  # between looking and creating, another process creates one and decides to keep it
            others.append(store.create_run("enet", tags))
        return seen

    assert store.only_run("enet", tags, found).id == others[0].id
    (run,) = runs(results)
    run.set_tags({MODEL_TAG: "aa"})
    made = [store.client.create_logged_model(store.experiment_id, "model", source_run_id=run.id) for _ in range(3)]
    sources = [f"models:/{model.model_id}" for model in made]
    with store.calling():
        store.client.create_registered_model("streets")
        store.client.create_model_version("streets", sources[0], run.id, tags={MODEL_TAG: "aa"})
    kept = store.create_version("streets", run, sources[1], tags={MODEL_TAG: "aa"})
    assert (str(kept.version), kept.source) == ("1", sources[0])
    assert len(store.client.search_model_versions("name = 'streets'")) == 1
    left = store.client.search_logged_models([store.experiment_id])
    assert [model.model_id for model in left] == [made[0].model_id], "the others are withdrawn, and the broken one"


@pytest.mark.timeout(120)
def test_without_mlflow_the_training_goes_on_after_one_sentence(results, monkeypatch):
    port = ports.free()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    said: list[str] = []
    with RunLogger(results.params, "enet", results.lineage, warn=said.append) as logger:
        for epoch in range(5):
            logger.log({"train_loss": 1.0}, step=epoch)
    assert said == [
        f"no live curves for enet: MLflow at http://127.0.0.1:{port} does not answer; training goes on, and "
        "register completes the run later"
    ]


@pytest.mark.timeout(120)
def test_a_server_that_accepts_and_never_answers_does_not_hold_up_a_training(results, monkeypatch):
    said: list[str] = []
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with RunLogger(results.params, "enet", results.lineage, warn=said.append) as logger:
            logger.log({"train_loss": 1.0}, step=1)
    assert len(said) == 1 and "does not answer" in said[0]


def test_a_store_that_breaks_in_the_middle_does_not_stop_the_training(results):
    said: list[str] = []
    with RunLogger(results.params, "enet", results.lineage, warn=said.append) as logger:
        logger.log({"train_loss": 1.0}, step=1)
        (results.root / "mlflow.db").write_bytes(b"not a database" * 100)
        logger.log({"train_loss": 0.9}, step=2)
        logger.log({"train_loss": 0.8}, step=3)
    assert len(said) == 1 and said[0].startswith("no live curves for enet: MLflow at sqlite:///mlflow.db refuses")


def test_a_deleted_experiment_is_named_with_the_way_back(results):
    store = Store("segmentation")
    store.client.delete_experiment(store.experiment_id)
    with pytest.raises(tracking.TrackingError, match="was deleted; restore it with `mlflow experiments restore"):
        Store("segmentation")


def test_the_environment_is_left_as_it_was(results):
    import os

    before = {k: v for k, v in os.environ.items() if "TRACKING" in k or "REQUEST" in k}
    Store("segmentation").runs(results.lineage.tags("enet"))
    assert {k: v for k, v in os.environ.items() if "TRACKING" in k or "REQUEST" in k} == before


def test_two_workers_may_create_the_store_at_once(results):
    code = "from components.tracking import Store; print(Store('segmentation').experiment_id)"
    root = str(Path(__file__).resolve().parents[2])
    command = [sys.executable, "-c", f"import sys; sys.path.insert(0, {root!r}); {code}"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert len({worker.communicate()[0] for worker in workers}) == 1
    assert [worker.returncode for worker in workers] == [0, 0]


def test_names_that_mlflow_would_make_one_stay_apart_and_a_real_store_takes_them(results):
    names = [
        f"iou/{name}" for name in ("道路", "天空", "行人", "a(b)", "a[b]", "a_b_", "x//y", "../up", "z" * 300, "road")
    ]
    kept = mlflow_names(names)
    assert len(set(kept.values())) == len(names)
    assert kept["iou/道路"] == "iou/道路" and kept["iou/road"] == "iou/road" and kept["iou/a_b_"] == "iou/a_b_"
    run = Store("names").create_run("enet", {})
    run.log_results(finite({name: index / 10 for index, name in enumerate(names)}))
    run.log_params({name: index for index, name in enumerate(names)})
    stored = Store("names").client.get_run(run.id).data
    assert {stored.metrics[kept[name]] for name in names} == {index / 10 for index in range(len(names))}
    assert len(stored.params) == len(names)
