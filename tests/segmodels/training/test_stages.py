"""Stages, iterations, rates by pattern, exact statistics of norms: what recipes of papers are made of."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from segmodels.artifacts.model_folder import load_model
from segmodels.catalog.registry import create_model
from segmodels.data.folder import samples
from segmodels.settings.schema import AugmentSettings, TrainSettings, on_recipe
from segmodels.training import loop
from segmodels.training.fit import fit
from segmodels.training.optimizers import LasagneRMSprop, learning_rate, optimizer_for
from segmodels.training.state import TrainingInterrupted

PLAIN: dict[str, Any] = {"scale": (1.0, 1.0), "crop": (32, 32), "flip": 0.0, "color": 0.0}
COMMON: dict[str, Any] = {
    "batch_size": 4,
    "accelerator": "cpu",
    "precision": "32",
    "channels_last": False,
    "augment": AugmentSettings(**PLAIN),
}


def _train(dataset: Path, out: Path, told: list[Mapping[str, Any]] | None = None, **settings: Any) -> Any:
    return fit(
        dataset,
        out,
        architecture="unet",
        options={"width": 2},
        settings=TrainSettings(**{**COMMON, **settings}),
        seed=3,
        on_epoch=told.append if told is not None else None,
    )


def test_iterations_are_counted_exactly_and_the_schedule_ends_with_them(dataset: Path, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []
    per_epoch = len(samples(dataset, "train")) // 4
    wanted = 2 * per_epoch + 1
    _train(dataset, tmp_path / "m", told, iterations=wanted, epochs=77)
    assert [row["step"] for row in told] == [per_epoch, 2 * per_epoch, wanted]
    settings = TrainSettings(iterations=100, lr=1.0, min_lr=0.1, warmup=0.0, power=1.0)
    assert learning_rate(settings, 50, 7) == pytest.approx(0.55)
    assert learning_rate(settings, 100, 7) == pytest.approx(0.1)


def test_the_rate_steps_at_its_milestones() -> None:
    settings = TrainSettings(iterations=60, lr=1.0, warmup=0.0, schedule="step", milestones=(40, 55), step_factor=0.1)
    rates = [learning_rate(settings, update, 3) for update in (0, 39, 40, 54, 55, 59)]
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01, 0.01])
    with pytest.raises(ValueError, match="milestones"):
        TrainSettings(milestones=(55, 40))


def test_stages_go_on_from_the_best_weights_of_the_one_before(dataset: Path, tmp_path: Path) -> None:
    told: list[Mapping[str, Any]] = []
    # What does not learn keeps the weights: the second stage must end with those of the first, and not with new ones.
    first = _train(dataset, tmp_path / "a", told, epochs=2, stages=({"lr": 1e-2}, {"lr": 1e-12, "epochs": 1}))
    assert [row["epoch"] for row in told] == [1, 2, 3]
    steps = [row["step"] for row in told]
    assert steps == sorted(set(steps))
    assert first.epoch == 3
    alone = _train(dataset, tmp_path / "b", epochs=2, lr=1e-2)
    ours, theirs = load_model(first.folder)[0].state_dict(), load_model(alone.folder)[0].state_dict()
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=1e-6)
    rows = (first.folder / "history.csv").read_text().splitlines()
    assert len(rows) == 4
    described = json.loads((first.folder / "model.json").read_text())["training"]["settings"]
    assert [stage["lr"] for stage in described["stages"]] == [1e-2, 1e-12]


def test_a_stage_has_keywords_of_the_architecture_of_its_own(dataset: Path, tmp_path: Path) -> None:
    trained = fit(
        dataset,
        tmp_path / "m",
        architecture="enet",
        options={"width": 0.25},
        settings=TrainSettings(**COMMON, epochs=1, stages=({"options": {"stage": "encoder"}}, {})),
    )
    config = json.loads((trained.folder / "model.json").read_text())
    assert config["options"] == {"width": 0.25}
    whole = create_model("enet", len(config["classes"]), width=0.25)
    assert load_model(trained.folder)[0].state_dict().keys() == whole.state_dict().keys()


@pytest.mark.parametrize("moment", ["in the first", "after the first", "in the second"])
def test_a_training_in_stages_that_was_interrupted_ends_with_the_same_weights(
    dataset: Path, tmp_path: Path, moment: str
) -> None:
    job: dict[str, Any] = {
        "architecture": "unet",
        "options": {"width": 2},
        "seed": 3,
        "settings": TrainSettings(**COMMON, epochs=2, stages=({}, {"lr": 1e-3})),
    }
    undisturbed = fit(dataset, tmp_path / "a", **job)
    last = {"in the first": 1, "after the first": 2, "in the second": 3}[moment]

    def stop(row: Mapping[str, Any]) -> None:
        if row["epoch"] == last:
            raise TrainingInterrupted("now")

    with pytest.raises(TrainingInterrupted):
        fit(dataset, tmp_path / "b", **job, on_epoch=stop)
    resumed = fit(dataset, tmp_path / "b", **job)
    assert resumed.epoch == undisturbed.epoch
    ours, theirs = load_model(resumed.folder)[0].state_dict(), load_model(undisturbed.folder)[0].state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert (resumed.folder / "history.csv").read_bytes() == (undisturbed.folder / "history.csv").read_bytes()


def test_a_stage_that_ended_early_is_not_gone_on_with(dataset: Path, tmp_path: Path) -> None:
    # Nothing is learned, so the second validation is no better, and the first stage of thirty epochs ends.
    settings = TrainSettings(
        **COMMON, epochs=30, lr=1e-12, early_stop=1, stages=({}, {"epochs": 2, "early_stop": None})
    )
    job: dict[str, Any] = {"architecture": "unet", "options": {"width": 2}, "seed": 3, "settings": settings}
    told: list[int] = []

    def stop(row: Mapping[str, Any]) -> None:
        told.append(row["epoch"])
        if row["epoch"] == 2:
            raise TrainingInterrupted("now")

    with pytest.raises(TrainingInterrupted):
        fit(dataset, tmp_path / "m", **job, on_epoch=stop)
    fit(dataset, tmp_path / "m", **job, on_epoch=stop)
    assert told == [1, 2, 3, 4]


def test_a_pass_for_exact_statistics_can_be_stopped_and_is_the_same_after_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job: dict[str, Any] = {
        "architecture": "bayesian_segnet_basic",
        "options": {"width": 8},
        "seed": 3,
        "settings": TrainSettings(**COMMON, epochs=2, norm_statistics="exact"),
    }
    undisturbed = fit(dataset, tmp_path / "a", **job)
    passes, plain = [0], update_bn

    def told_to_stop(loader: Any, model: Any, device: Any) -> None:
        passes[0] += 1
        if passes[0] == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        plain(loader, model, device)

    monkeypatch.setattr(loop, "update_bn", told_to_stop)
    with pytest.raises(TrainingInterrupted, match="stopped in epoch 1"):
        fit(dataset, tmp_path / "b", **job)
    resumed = fit(dataset, tmp_path / "b", **job)
    ours, theirs = load_model(resumed.folder)[0].state_dict(), load_model(undisturbed.folder)[0].state_dict()
    for name, value in theirs.items():
        assert torch.equal(ours[name], value), name
    assert (resumed.folder / "history.csv").read_bytes() == (undisturbed.folder / "history.csv").read_bytes()


@pytest.mark.parametrize(
    ("stages", "sentence"),
    [
        (({}, {"lrr": 1}), "stage 2: unknown setting 'lrr'"),
        (({"lr": -1.0},), "stage 1: lr is -1.0"),
        (({"augment": {"flip": 3}},), "stage 1: augment.flip is 3"),
        (({"stages": ({},)},), "stage 1: unknown setting 'stages'"),
        (({"options": 3},), "stage 1: options are no mapping"),
    ],
)
def test_a_mistake_in_a_stage_is_named(stages: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        TrainSettings(stages=stages)


def test_a_length_of_ones_own_replaces_that_of_a_recipe() -> None:
    recipe = {"iterations": 9000, "lr": 1.0, "stages": ({"lr": 3.0, "iterations": 5}, {"augment": {"flip": 0.0}})}
    base: dict[str, Any] = {"epochs": 12, "iterations": None, "lr": 2.0}
    ours = on_recipe(base, recipe, {"epochs": 2})
    assert (ours["epochs"], ours["iterations"], ours["lr"]) == (2, None, 1.0)
    assert ours["stages"] == ({"lr": 3.0}, {"augment": {"flip": 0.0}})
    ours = on_recipe(base, recipe, {"lr": 0.1, "augment": {"flip": 0.5}})
    assert ours["stages"] == ({"iterations": 5}, {"augment": {}})
    assert on_recipe(base, recipe, {"stages": ()})["stages"] == ()


class _Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Conv2d(4, 2, 1)


def _groups(**settings: Any) -> dict[str, tuple[float, float]]:
    network = _Small()
    optimizer = optimizer_for(network, TrainSettings(optimizer="sgd", weight_decay=0.5, **settings), set())
    names = {id(p): n for n, p in network.named_parameters()}
    return {names[id(p)]: (g["factor"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}


def test_rates_by_pattern_are_multiplied_and_biases_have_a_factor_of_their_own() -> None:
    found = _groups(lr_factors={"head": 10.0, "*.weight": 0.5}, bias_lr=2.0)
    assert {name: rate for name, (rate, _) in found.items()} == {
        "body.0.weight": 0.5,
        "body.0.bias": 2.0,
        "body.1.weight": 0.5,
        "body.1.bias": 1.0,  # of a norm
        "head.weight": 5.0,
        "head.bias": 20.0,
    }


def test_weights_decay_and_biases_and_norms_where_it_is_said() -> None:
    decay = {name: d for name, (_, d) in _groups().items()}
    assert {name for name, d in decay.items() if d} == {"body.0.weight", "head.weight"}
    decay = {name: d for name, (_, d) in _groups(decay_biases=True).items()}
    assert {name for name, d in decay.items() if not d} == {"body.1.weight", "body.1.bias"}
    decay = {name: d for name, (_, d) in _groups(decay_biases=True, decay_norms=True).items()}
    assert all(decay.values())


def test_rmsprop_of_lasagne_has_its_epsilon_under_the_root() -> None:
    # Lasagne/Lasagne, lasagne/updates.py: rmsprop, worked out by hand for two steps.
    weight = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    optimizer = LasagneRMSprop([weight], lr=0.1, weight_decay=0.01)
    expected, square = weight.detach().clone(), torch.zeros(2, dtype=torch.float64)
    for gradient in (torch.tensor([1e-4, 3.0], dtype=torch.float64), torch.tensor([-1e-5, 0.5], dtype=torch.float64)):
        weight.grad = gradient.clone()
        optimizer.step()
        decayed = gradient + 0.01 * expected
        square = 0.9 * square + 0.1 * decayed**2
        expected = expected - 0.1 * decayed / (square + 1e-6).sqrt()
        torch.testing.assert_close(weight.detach(), expected, rtol=1e-12, atol=1e-12)


def test_exact_statistics_are_those_of_the_training_set(dataset: Path, tmp_path: Path) -> None:
    options = {"width": 2, "batch_norm": True}
    settings = TrainSettings(**COMMON, epochs=1, norm_statistics="exact")
    trained = fit(dataset, tmp_path / "m", architecture="unet", options=options, settings=settings, seed=3)
    network = load_model(trained.folder)[0]
    norm = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert norm.num_batches_tracked == len(samples(dataset, "train")) // 4
    running = fit(
        dataset,
        tmp_path / "n",
        architecture="unet",
        options=options,
        settings=TrainSettings(**COMMON, epochs=1),
        seed=3,
    )
    other = load_model(running.folder)[0].state_dict()
    ours = network.state_dict()
    moved = [n for n in ours if not torch.equal(ours[n].float(), other[n].float())]
    assert moved
    assert all("running" in n or "tracked" in n for n in moved), moved
