"""Registration when something goes wrong: nothing is lost, nothing is doubled, and each fault is one sentence.

MLflow's server runs on PostgreSQL; what happens at once happens in processes of its own, which a barrier lets loose.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from multiprocessing.context import ForkServerContext, ForkServerProcess
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.lineage import collect
from components.params import Params
from components.register.trained import read_history
from components.tracking import KEY_TAGS, Store
from components.train.run_logger import RunLogger
from tests.components.conftest import Results, write_results
from tests.servers import mlflow as mlflow_server
from tests.servers.mlflow import MLflow
from tests.servers.postgres import Postgres

PATIENCE = 240  # seconds that no process needs


@dataclass
class Place:
    """A project with trained models, and the server that it registers at."""

    results: Results
    server: MLflow
    database: Postgres
    processes: ForkServerContext

    def settings(self, name: str, **more: Any) -> Params:
        """Settings of this project with an experiment and a registered model of their own."""
        content = self.results.params.model_dump(mode="json", by_alias=True)
        register = {"experiment": name, "model_name": name}
        return Params.parse({**content, **more, "register": register})

    def write(self, params: Params) -> Path:
        path = self.results.root / f"{params.register_.experiment}.yaml"
        path.write_text(yaml.safe_dump(params.model_dump(mode="json", by_alias=True)))
        return path

    def files(self, name: str) -> tuple[Path, Path]:
        """Where a registration writes, and what it says."""
        return self.results.root / f"{name}.json", self.results.root / f"{name}.log"

    def start(self, function: Any, *arguments: Any, **more: str) -> ForkServerProcess:
        environment = {"MLFLOW_TRACKING_URI": self.server.url, "GIT_COMMIT": "c0ffee", "GIT_DIRTY": "false", **more}
        process = self.processes.Process(
            target=in_place, args=(self.results.root, environment, function, *arguments), daemon=True
        )
        process.start()
        return process


def in_place(root: Path, environment: dict[str, str], function: Any, *arguments: Any) -> None:
    os.chdir(root)
    os.environ.update(environment)
    raise SystemExit(function(*arguments))


def register(settings: Path, out: Path, log: Path, barrier: Any = None) -> int:
    from components.__main__ import main

    if barrier is not None:
        barrier.wait(PATIENCE)
    with log.open("w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        return main(["register", "--params", str(settings), "--out", str(out)])


def train(params: list[Params], data: Path, rows: dict[int, dict[str, float]], barrier: Any) -> int:
    said: list[str] = []
    for trained in params:
        barrier.wait(PATIENCE)
        with RunLogger(trained, "enet", collect(trained, data), warn=said.append) as logger:
            for epoch, row in rows.items():
                logger.log(row, step=epoch)
    return len(said)


def ended(processes: list[ForkServerProcess]) -> list[int | None]:
    for process in processes:
        process.join(PATIENCE)
    return [process.exitcode for process in processes]


@pytest.fixture(scope="module")
def place(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        results = write_results(tmp_path_factory.mktemp("faults") / "repo", monkeypatch)
        results = replace(results, root=results.root.resolve())
        processes = multiprocessing.get_context("forkserver")
        # Imported once; the processes then meet within milliseconds.
        processes.set_forkserver_preload(["mlflow.pyfunc", "components.register.step", "tests.e2e.test_faults"])
        folder = tmp_path_factory.mktemp("mlflow")
        with mlflow_server.serving(folder, postgres.create("faults")) as server:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
            yield Place(results, server, postgres, processes)


def registered(name: str) -> dict[str, Any]:
    """What is in MLflow under the experiment and the registered model of this name."""
    store = Store(name)
    client = store.client
    with store.calling():
        runs = client.search_runs([store.experiment_id])
        model = store.registered(name)
        return {
            "runs": sorted(run.data.tags["architecture"] for run in runs),
            "status": {run.info.status for run in runs},
            "points": {
                (run.data.tags["architecture"], metric): [
                    (point.step, point.value) for point in client.get_metric_history(run.info.run_id, metric)
                ]
                for run in runs
                for metric in run.data.metrics
            },
            "versions": {
                version.tags["model.key"]: version for version in client.search_model_versions(f"name = '{name}'")
            },
            "count": len(client.search_model_versions(f"name = '{name}'")),
            "models": len(client.search_logged_models([store.experiment_id])),
            "challenger": model.aliases.get("challenger") if model else None,
        }


def assert_complete(name: str, results: Results) -> None:
    """Everything is there, and once."""
    found = registered(name)
    assert found["runs"] == ["enet", "unet"] and found["status"] == {"FINISHED"}
    assert sorted(found["versions"]) == ["enet", "unet"]
    assert found["count"] == 2, "versions"
    assert found["models"] == 2, "logged models"
    assert {version.tags["gate"] for version in found["versions"].values()} == {"passed"}
    assert str(found["challenger"]) == str(found["versions"]["unet"].version)
    for key, folder in results.models.items():
        history = read_history(results.root / folder / "history.csv")
        points = found["points"][key, "val_loss"]
        assert sorted(points) == [(epoch, row["val_loss"]) for epoch, row in history.items() if "val_loss" in row]
    once = {key: points for key, points in found["points"].items() if key[1] in ("miou", "parameters", "iou/road")}
    assert len(once) == 6 and all(len(points) == 1 for points in once.values())


def test_two_registrations_at_once_end_as_one(place: Place):
    settings, out, log = place.write(place.settings("atonce")), *place.files("atonce")
    barrier = place.processes.Barrier(2)
    logs = [log, log.with_suffix(".second")]
    codes = ended([place.start(register, settings, out, log, barrier) for log in logs])
    assert codes == [0, 0], [log.read_text() for log in logs]
    assert_complete("atonce", place.results)
    written = json.loads(out.read_text())
    assert written["challenger"] == "unet"
    assert {v["version"] for v in written["versions"]} == {
        str(version.version) for version in registered("atonce")["versions"].values()
    }
    said = [log.read_text().splitlines()[-4:] for log in logs]
    assert said[0] == said[1] and "challenger of atonce: unet" in said[0]
    assert not list(place.results.root.glob("*.part"))


def test_trainings_of_the_same_key_at_once_share_one_run(place: Place):
    params = [place.settings("live", seed=seed) for seed in range(4)]
    rows = read_history(place.results.models["enet"] / "history.csv")
    barrier = place.processes.Barrier(3)
    said = ended([place.start(train, params, place.results.data, rows, barrier) for _ in range(3)])
    assert said == [0, 0, 0], "no sentence about a run that is away"
    store = Store("live")
    with store.calling():
        runs = store.client.search_runs([store.experiment_id])
    assert len({tuple(run.data.tags[tag] for tag in KEY_TAGS) for run in runs}) == len(runs) == len(params)
    for run in runs:
        assert run.info.status == "FINISHED"
        with store.calling():
            points = store.client.get_metric_history(run.info.run_id, "train_loss")
        assert {(point.step, point.value) for point in points} == {
            (epoch, row["train_loss"]) for epoch, row in rows.items()
        }


def without_postgresql(place: Place, name: str, process: ForkServerProcess, until: Callable[[], bool]) -> None:
    """Stops PostgreSQL once the process has created its first run, and starts it again."""
    store = Store(name)
    deadline = time.monotonic() + PATIENCE
    with store.calling():
        while not store.client.search_runs([store.experiment_id]) and time.monotonic() < deadline:
            time.sleep(0.02)
    assert process.is_alive(), "it is in the middle"
    place.database.stop()
    try:
        while not until() and time.monotonic() < deadline:
            time.sleep(0.1)
    finally:
        place.database.start()


def test_a_registration_waits_while_postgresql_is_restarted(place: Place):
    settings, out, log = place.write(place.settings("restart")), *place.files("restart")
    process = place.start(register, settings, out, log)
    back = time.monotonic() + 5
    without_postgresql(place, "restart", process, lambda: time.monotonic() > back)
    assert ended([process]) == [0], log.read_text()
    assert_complete("restart", place.results)


def test_a_registration_that_cannot_wait_is_completed_by_a_second_one(place: Place):
    settings, out, log = place.write(place.settings("away")), *place.files("away")
    process = place.start(register, settings, out, log, MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    without_postgresql(place, "away", process, lambda: not process.is_alive())
    assert ended([process]) == [1]
    (sentence,) = log.read_text().splitlines()
    assert sentence.startswith(f"error: MLflow at {place.server.url} ") and "; nothing is lost: " in sentence
    assert not out.exists()
    assert ended([place.start(register, settings, out, log)]) == [0], log.read_text()
    assert_complete("away", place.results)


def test_mlflow_that_goes_while_a_training_logs_is_told_once_and_register_completes_the_history(place: Place):
    params = place.settings("gone")
    rows = read_history(place.results.models["enet"] / "history.csv")
    said: list[str] = []
    with RunLogger(params, "enet", collect(params, place.results.data), warn=said.append) as logger:
        for epoch, row in rows.items():
            if epoch == 3:
                place.server.stop()
            logger.log(row, step=epoch)
    assert said == [
        f"no live curves for enet: MLflow at {place.server.url} does not answer; training goes on, and register "
        "completes the run later"
    ]
    place.server.start()
    assert registered("gone")["points"]["enet", "train_loss"] == [(e, rows[e]["train_loss"]) for e in (1, 2)]
    settings, out, log = place.write(params), *place.files("gone")
    assert ended([place.start(register, settings, out, log)]) == [0], log.read_text()
    assert_complete("gone", place.results)
