"""Training: it learns, it can be killed at any moment, and it ends with the same bytes all the same."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from segmodels.artifacts.model_folder import load_model
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training.fit import fit
from segmodels.training.optimizers import learning_rate
from segmodels.training.state import TrainingError

SETTINGS = TrainSettings(
    epochs=3,
    batch_size=2,
    lr=0.01,
    ema=0.9,
    clip=1.0,
    precision="32",
    accelerator="cpu",
    augment=AugmentSettings(crop=(48, 48), scale=(0.8, 1.2), color=0.2),
)
OPTIONS: dict[str, Any] = {"width": 2, "batch_norm": True}


def run(dataset: Path, out: Path, **changes: Any) -> Any:
    settings = TrainSettings(**{**{f: getattr(SETTINGS, f) for f in SETTINGS.__dataclass_fields__}, **changes})
    return fit(dataset, out, architecture="unet", settings=settings, options=OPTIONS, seed=3)


@pytest.fixture(scope="module")
def undisturbed(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(dataset, tmp_path_factory.mktemp("undisturbed") / "m").folder


def test_the_model_folder_is_complete_and_the_state_is_gone(undisturbed: Path) -> None:
    names = ["history.csv", "model.json", "model.safetensors", "speed.json"]
    assert sorted(p.name for p in undisturbed.iterdir()) == names
    assert sorted(p.name for p in undisturbed.parent.iterdir()) == ["m"]
    history = (undisturbed / "history.csv").read_text().splitlines()
    assert history[0] == "epoch,step,lr,train_loss,val_loss,val_miou,val_pixel_accuracy"
    assert len(history) == 4
    model, config = load_model(undisturbed)
    assert config.metrics["val_miou"] == max(float(line.split(",")[5]) for line in history[1:])
    assert model(torch.zeros(1, 3, 40, 40))["out"].shape == (1, 3, 40, 40)


def test_the_same_seed_gives_the_same_bytes(dataset: Path, undisturbed: Path, tmp_path: Path) -> None:
    assert_same(run(dataset, tmp_path / "m").folder, undisturbed)


def test_it_learns(dataset: Path, tmp_path: Path) -> None:
    assert run(dataset, tmp_path / "m", epochs=12).figures["val_miou"] > 0.6


@pytest.mark.parametrize(
    ("stop", "moment"),
    [("SIGKILL", "mid-epoch"), ("SIGKILL", "second epoch"), ("SIGTERM", "within a step"), ("SIGTERM", "validation")],
)
def test_killed_and_run_again_it_ends_with_the_same_bytes(
    stop: str, moment: str, dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    child = start(dataset, tmp_path / "m", moment)
    try:
        wait_for(tmp_path / "ready", child)
        os.kill(child.pid, getattr(signal, stop))
        output, _ = child.communicate(timeout=120)
    finally:
        child.kill()
    assert child.returncode != 0
    if stop == "SIGTERM":
        assert "the state is saved, run the same command again" in output
    assert not (tmp_path / "m").exists()
    assert_same(run(dataset, tmp_path / "m").folder, undisturbed)


def test_other_settings_do_not_go_on_with_an_old_state(dataset: Path, undisturbed: Path, tmp_path: Path) -> None:
    child = start(dataset, tmp_path / "m", "second epoch", signature="other")
    try:
        wait_for(tmp_path / "ready", child)
        child.kill()
    finally:
        child.communicate(timeout=60)
    assert_same(run(dataset, tmp_path / "m").folder, undisturbed)


def test_two_runs_at_once_are_told_apart(dataset: Path, tmp_path: Path) -> None:
    child = start(dataset, tmp_path / "m", "second epoch")
    try:
        wait_for(tmp_path / "ready", child)
        with pytest.raises(TrainingError, match="another process trains here"):
            run(dataset, tmp_path / "m")
    finally:
        child.kill()
        child.communicate(timeout=60)


FULL_AFTER_AN_EPOCH = """
import json, resource, signal, sys
from pathlib import Path
from segmodels.training.state import TrainingError
from segmodels.settings.schema import AugmentSettings, TrainSettings
from segmodels.training.fit import fit

data, out, fields = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
settings = TrainSettings(**{**fields, "augment": AugmentSettings(**fields["augment"])})
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def fill(row):
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))

try:
    fit(data, out, architecture="unet", settings=settings, options=json.loads(sys.argv[4]), seed=3, on_epoch=fill)
except TrainingError as error:
    print(f"error: {error}")
"""


def test_a_full_disk_is_told_and_the_next_run_goes_on_from_the_last_epoch(
    dataset: Path, undisturbed: Path, tmp_path: Path
) -> None:
    from dataclasses import asdict

    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    given = [str(dataset), str(tmp_path / "m"), json.dumps(asdict(SETTINGS)), json.dumps(OPTIONS)]
    done = subprocess.run(
        [sys.executable, "-c", FULL_AFTER_AN_EPOCH, *given], env=env, capture_output=True, text=True, timeout=180
    )
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("error: "))
    assert "cannot be written" in told and "make room and run the same command again" in told
    assert not (tmp_path / "m").exists()
    assert not list(tmp_path.rglob("*.part"))
    epochs: list[int] = []
    settings = {f: getattr(SETTINGS, f) for f in SETTINGS.__dataclass_fields__}
    again = fit(
        dataset,
        tmp_path / "m",
        architecture="unet",
        settings=TrainSettings(**settings),
        options=OPTIONS,
        seed=3,
        on_epoch=lambda row: epochs.append(row["epoch"]),
    )
    assert epochs == [2, 3]
    assert_same(again.folder, undisturbed)


OUT_OF_MEMORY = """
import json, re, resource, sys
from pathlib import Path
from segmodels.training.state import TrainingError
from segmodels.settings.schema import TrainSettings
from segmodels.training.fit import fit

held = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (held + (int(sys.argv[3]) << 20), resource.RLIM_INFINITY))
settings = TrainSettings(epochs=2, batch_size=8, precision="32", accelerator="cpu", class_weights="none")
try:
    known = {"checked": True, "data_md5": "0.dir"}  # threads that read the data would not even start
    fit(sys.argv[1], sys.argv[2], architecture="unet", settings=settings, options={"width": 64}, seed=3, **known)
except TrainingError as error:
    print(f"error: {error}")
"""


@pytest.mark.parametrize(
    ("megabytes", "moment"), [(60, "before the first epoch"), (400, "in epoch 1")], ids=["network", "activations"]
)
def test_too_little_memory_is_told_with_what_to_lower(
    megabytes: int, moment: str, dataset: Path, tmp_path: Path
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(dataset), str(tmp_path / "m"), str(megabytes)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=180,
    )
    (told,) = (line for line in done.stdout.splitlines() if line.startswith("error: "))
    assert f"out of memory {moment}; lower train.batch_size" in told


def test_a_loss_that_explodes_is_told(dataset: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"the loss is (nan|inf) in epoch \d; lower train\.lr"):
        run(dataset, tmp_path / "m", lr=1e30, optimizer="sgd", clip=None, warmup=0.0, ema=None)
    assert not (tmp_path / "m").exists()


def test_gradients_are_accumulated(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "m", accumulate=2, val_every=2)
    rows = [line.split(",") for line in (tmp_path / "m/history.csv").read_text().splitlines()[1:]]
    # 10 images in batches of 2 are 5 steps, so 3 updates an epoch; epoch 2 is due, the last one always is.
    assert [row[1] for row in rows] == ["3", "6", "9"]
    assert [bool(row[5]) for row in rows] == [False, True, True]


def test_accumulated_batches_move_weights_as_one_large_batch_does(dataset: Path, tmp_path: Path) -> None:
    plain = AugmentSettings(crop=(48, 48), scale=(1.0, 1.0), flip=0.0, color=0.0)
    settings = TrainSettings(
        epochs=1,
        optimizer="sgd",
        lr=1e-6,
        warmup=0.0,
        reduction="batch",
        precision="32",
        channels_last=False,
        accelerator="cpu",
        augment=plain,
    )

    def weights(out: str, batch_size: int, accumulate: int) -> dict[str, torch.Tensor]:
        how = dataclasses.replace(settings, batch_size=batch_size, accumulate=accumulate)
        trained = fit(dataset, tmp_path / out, architecture="unet", options={"width": 2}, settings=how, seed=3)
        assert (trained.folder / "history.csv").read_text().splitlines()[1].split(",")[1] == "1"
        return load_file(trained.folder / "model.safetensors")

    # One update in either case; ten images are eight and two that are dropped.
    whole, parts = weights("a", 8, 1), weights("b", 4, 2)
    begun = fit(
        dataset,
        tmp_path / "c",
        architecture="unet",
        options={"width": 2},
        settings=dataclasses.replace(settings, lr=1e-12, batch_size=8),
        seed=3,
    )
    before = load_file(begun.folder / "model.safetensors")
    moved = max(float((whole[name] - before[name]).abs().max()) for name in whole)
    assert moved > 1e-3
    for name, value in whole.items():
        torch.testing.assert_close(parts[name], value, rtol=0, atol=1e-2 * moved)


def test_early_stop_ends_training(dataset: Path, tmp_path: Path) -> None:
    run(dataset, tmp_path / "m", epochs=30, lr=1e-9, ema=None, early_stop=2)
    assert len((tmp_path / "m/history.csv").read_text().splitlines()) < 20


def test_new_layers_learn_faster(dataset: Path, undisturbed: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(undisturbed / "model.safetensors")
    save_file({k: v for k, v in weights.items() if not k.startswith("classifier")}, tmp_path / "w.safetensors")
    run(dataset, tmp_path / "m", epochs=1, weights=str(tmp_path / "w.safetensors"), new_layer_lr=1e-12, ema=None)
    trained = load_file(tmp_path / "m/model.safetensors")
    assert not torch.equal(trained["down.0.0.weight"], weights["down.0.0.weight"])
    torch.manual_seed(3)
    from segmodels.catalog.registry import create_model

    fresh = create_model("unet", 3, **OPTIONS).state_dict()
    torch.testing.assert_close(trained["classifier.weight"], fresh["classifier.weight"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop"])
def test_every_optimiser_trains(optimizer: str, dataset: Path, tmp_path: Path) -> None:
    assert run(dataset, tmp_path / "m", optimizer=optimizer, epochs=1, lr=1e-3).figures["val_miou"] >= 0


def test_schedules() -> None:
    def rates(**changes: Any) -> list[float]:
        settings = TrainSettings(epochs=10, lr=1.0, **changes)
        return [learning_rate(settings, update, per_epoch=10) for update in range(100)]

    poly = rates(schedule="poly", power=0.9, warmup=0.0)
    assert poly[0] == 1
    assert poly[50] == pytest.approx(0.5**0.9)
    assert rates(schedule="cosine", warmup=0.0)[50] == pytest.approx(0.5)
    step = rates(schedule="step", step_epochs=4, step_factor=0.1, warmup=0.0)
    assert [step[0], step[39], step[40], step[80]] == pytest.approx([1, 1, 0.1, 0.01])
    warm = rates(schedule="constant", warmup=0.1)
    assert warm[:10] == pytest.approx([(i + 1) / 11 for i in range(10)])
    assert warm[10:] == [1.0] * 90


def assert_same(ours: Path, theirs: Path) -> None:
    for name in ("model.safetensors", "model.json", "history.csv"):
        assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name


CHILD = """
import json, sys, time
from segmodels.runtime import set_up_process
set_up_process()
from pathlib import Path
import torch
from segmodels.training import loop
from segmodels.training.fit import fit
from segmodels.settings.schema import AugmentSettings, TrainSettings

data, out, moment, signature, fields = sys.argv[1:]
fields = json.loads(fields)
torch.set_num_threads(int(torch.get_num_threads()))

def ready():
    (Path(out).parent / "ready").touch()
    time.sleep(1)  # the signal comes here

original_step, original_between, original_update = loop.Loop._step, loop.Loop._between, loop.Loop._update

def _step(self, batch):
    if (moment, self.epoch, self.batch) in (("mid-epoch", 0, 3), ("second epoch", 1, 2)):
        ready()
    return original_step(self, batch)

def _between(self, loader):
    for batch in original_between(self, loader):
        if moment == "validation" and self.epoch == 1:
            ready()
        yield batch

def _update(self):
    if moment == "within a step" and self.updates == 7:
        ready()
    return original_update(self)

loop.Loop._step, loop.Loop._between, loop.Loop._update = _step, _between, _update
fields["augment"] = AugmentSettings(**fields["augment"])
settings = TrainSettings(**fields)
fit(Path(data), Path(out), architecture="unet", settings=settings,
             options={"width": 2, "batch_norm": True}, seed=3, signature=signature)
"""


def start(dataset: Path, out: Path, moment: str, signature: str = "") -> subprocess.Popen[str]:
    """The same training in a process of its own that waits at a moment, so that it can be killed there."""
    from dataclasses import asdict

    fields = asdict(SETTINGS)
    # The process has as many threads as this one, on which the order of sums depends.
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-c", CHILD, str(dataset), str(out), moment, signature, json.dumps(fields)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=env)


def wait_for(path: Path, child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 180
    while not path.exists():
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline, "the training did not get to the moment"
        time.sleep(0.05)
