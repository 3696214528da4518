"""Several processes that train one network, over gloo on this machine."""

from __future__ import annotations

import csv
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training import launch
from segmodels.training.fit import fit
from segmodels.training.result import Trained
from segmodels.training.state import TrainingError, TrainingInterrupted

EPOCHS = 4


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def train(
    data: Path,
    out: Path,
    *,
    devices: int,
    batch_size: int,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
    **changes: Any,
) -> Trained:
    settings = TrainSettings(
        **{
            "epochs": EPOCHS,
            "batch_size": batch_size,
            # Adam turns a gradient of zero and one of rounding's size into steps of one size.
            "optimizer": "sgd",
            "lr": 1e-3,
            "class_weights": "none",
            "precision": "32",
            "accelerator": "cpu",
            "devices": devices,
            "augment": AugmentSettings(scale=(1.0, 1.0), flip=0.5, color=0.2),
            **changes,
        }
    )
    return fit(
        data,
        out,
        architecture="unet",
        settings=settings,
        options={"width": 2, "dropout": 0.0},
        seed=3,
        on_epoch=on_epoch,
    )


def history(folder: Path) -> list[dict[str, str]]:
    with (folder / "history.csv").open() as file:
        return list(csv.DictReader(file))


def workers(rank: int) -> Iterator[int]:
    """Process ids of the training processes of that rank which descend from this one."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"segmodels.training.worker" in command and f"RANK={rank}".encode() in environment:
            mark = f"SEGMODELS_TEST={os.environ.get('SEGMODELS_TEST', '')}".encode()
            if mark in environment:
                yield int(entry.name)


@pytest.fixture
def marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets a test tell its own processes from those of another."""
    monkeypatch.setenv("SEGMODELS_TEST", str(tmp_path))


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(dataset, tmp_path_factory.mktemp("two") / "m", devices=2, batch_size=2).folder


def test_two_processes_have_the_loss_curve_of_one_with_the_doubled_batch(
    undisturbed: Path, dataset: Path, tmp_path: Path
) -> None:
    rows: list[Mapping[str, Any]] = []
    one = train(dataset, tmp_path / "one", devices=1, batch_size=4, on_epoch=rows.append).folder
    assert len(history(undisturbed)) == EPOCHS == len(rows)
    for two, row in zip(history(undisturbed), history(one), strict=True):
        assert two["step"] == row["step"]
        for key in ("train_loss", "val_loss", "val_miou", "val_pixel_accuracy"):
            assert float(two[key]) == pytest.approx(float(row[key]), rel=1e-3), (key, row["epoch"])


@pytest.mark.usefixtures("marked")
def test_a_killed_worker_is_survived_with_the_same_weights(undisturbed: Path, dataset: Path, tmp_path: Path) -> None:
    killed: list[int] = []
    rows: list[int] = []

    def on_epoch(row: Mapping[str, Any]) -> None:
        rows.append(row["epoch"])
        if row["epoch"] == 2 and not killed:
            killed.extend(workers(rank=1))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    trained = train(dataset, tmp_path / "m", devices=2, batch_size=2, on_epoch=on_epoch)
    assert len(killed) == 1
    assert sorted(set(rows)) == list(range(1, EPOCHS + 1))
    name = "model.safetensors"
    assert (trained.folder / name).read_bytes() == (undisturbed / name).read_bytes()


@pytest.mark.usefixtures("marked")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop_it_saves_and_goes_on_later(number: int, dataset: Path, tmp_path: Path) -> None:
    def on_epoch(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 1:
            threading.Timer(0.05, os.kill, (os.getpid(), number)).start()

    epochs = {"epochs": 40}
    with pytest.raises(TrainingInterrupted, match="the state is saved"):
        train(dataset, tmp_path / "m", devices=2, batch_size=2, on_epoch=on_epoch, **epochs)
    assert not list(workers(rank=0)) + list(workers(rank=1))
    assert (tmp_path / "m.state/state.pt").is_file()
    rows: list[int] = []
    train(dataset, tmp_path / "m", devices=2, batch_size=2, on_epoch=lambda row: rows.append(row["epoch"]), **epochs)
    assert rows[0] > 1
    assert rows[-1] == 40


def test_what_stops_the_training_is_told_once(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"unet: the loss is nan in epoch \d; lower train\.lr"):
        train(dataset, tmp_path / "m", devices=2, batch_size=2, lr=1e38, clip=None, warmup=0.0)


@pytest.mark.parametrize("followed", [False, True])
def test_processes_that_nobody_follows_any_more_save_and_end_by_themselves(
    dataset: Path, tmp_path: Path, followed: bool
) -> None:
    settings = TrainSettings(epochs=2 if followed else 4000, batch_size=2, precision="32", accelerator="cpu")
    job = launch.Job(
        data=str(dataset),
        out=str(tmp_path / "m"),
        architecture="unet",
        task="semantic",
        settings=dataclasses.asdict(settings),
        options={"width": 2},
        backbone=None,
        name=None,
        seed=3,
        state=str(tmp_path / "state"),
        signature="s",
        leash=5.0,
    )
    launch.write(job, tmp_path)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=0"]
    command = [sys.executable, "-m", *launcher, "-m", "segmodels.training.worker", str(tmp_path / "job.json")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as processes:
        try:
            with launch.holding(tmp_path, 0.2):
                while processes.poll() is None and (followed or not launch.rows(tmp_path)):
                    time.sleep(0.2)
            said = processes.communicate(timeout=120)[0]
        finally:
            processes.terminate()
    # A failure would have the nodes started again.
    assert processes.returncode == 0
    if followed:
        assert launch.outcome(tmp_path, job, 0)["epoch"] >= 1
    else:
        assert "nobody has followed this training for 5 s" in said
        with pytest.raises(TrainingInterrupted, match="the state is saved"):
            launch.outcome(tmp_path, job, 0)
        assert any((tmp_path / "state").iterdir())
