"""How weights move, compared with torch's own schedulers and averages, and by what becomes of weights."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from segmodels.settings.schema import TrainSettings
from segmodels.training.optimizers import learning_rate, move_average, optimizer_for, updates


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.group, self.head = nn.GroupNorm(2, 4), nn.Conv2d(4, 2, 1)
        for parameter in self.parameters():
            nn.init.normal_(parameter, 1.0, 0.1)


DECAYING = {"conv.weight", "head.weight"}


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "sgd", "rmsprop", "rmsprop_lasagne"])
def test_without_a_gradient_weights_of_convolutions_shrink_and_norms_and_biases_stay(optimizer: Any) -> None:
    network = Small()
    settings = TrainSettings(optimizer=optimizer, lr=0.01, weight_decay=0.1, momentum=0.0)
    made = optimizer_for(network, settings, set())
    before = {name: value.clone() for name, value in network.state_dict().items()}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    made.step()
    for name, parameter in network.named_parameters():
        if name in DECAYING:
            assert (parameter.abs() < before[name].abs()).all(), name
        else:
            assert torch.equal(parameter, before[name]), name
        if name in DECAYING and optimizer in ("adamw", "sgd"):  # lr times decay, of the weight
            torch.testing.assert_close(parameter.detach(), before[name] * (1 - 0.01 * 0.1))


@pytest.mark.parametrize(
    ("name", "kind", "keywords"),
    [
        ("adamw", torch.optim.AdamW, {}),
        ("adam", torch.optim.Adam, {}),
        ("sgd", torch.optim.SGD, {"momentum": 0.7}),
        ("rmsprop", torch.optim.RMSprop, {"momentum": 0.7}),
    ],
)
def test_each_optimiser_is_torchs_with_its_rate_and_momentum(name: Any, kind: Any, keywords: dict[str, float]) -> None:
    ours, theirs = Small(), Small()
    theirs.load_state_dict(ours.state_dict())
    made = optimizer_for(ours, TrainSettings(optimizer=name, lr=0.02, weight_decay=0.0, momentum=0.7), set())
    expected = kind(theirs.parameters(), lr=0.02, weight_decay=0.0, **keywords)
    images = torch.randn(2, 3, 8, 8)
    for _ in range(3):
        for network, optimizer in ((ours, made), (theirs, expected)):
            optimizer.zero_grad()
            network.head(network.group(network.norm(network.conv(images)))).square().mean().backward()
            optimizer.step()
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_parameters_are_left_out_and_new_layers_have_a_rate_of_their_own_once_weights_are_loaded() -> None:
    network = Small()
    network.norm.requires_grad_(False)
    new = {"head.weight", "head.bias"}

    def factors(**changes: Any) -> dict[str, float]:
        optimizer = optimizer_for(network, TrainSettings(optimizer="sgd", new_layer_lr=10.0, **changes), new)
        names = {id(p): name for name, p in network.named_parameters()}
        return {names[id(p)]: group["factor"] for group in optimizer.param_groups for p in group["params"]}

    assert factors(weights="some.safetensors") == {
        "conv.weight": 1.0, "conv.bias": 1.0, "group.weight": 1.0, "group.bias": 1.0,
        "head.weight": 10.0, "head.bias": 10.0,
    }  # fmt: skip
    assert set(factors().values()) == {1.0}
    found = factors(weights="some.safetensors", lr_factors={"head": 0.5})
    assert (found["head.weight"], found["conv.weight"]) == (5.0, 1.0)


def rates(**settings: Any) -> list[float]:
    made = TrainSettings(lr=0.5, **settings)
    return [learning_rate(made, update, per_epoch=4) for update in range(24)]


def torchs(make: Any) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler, seen = make(optimizer), []
    for _ in range(24):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


@pytest.mark.parametrize(
    ("settings", "scheduler"),
    [
        ({"schedule": "poly", "power": 0.9}, lambda o: lr_scheduler.PolynomialLR(o, 24, power=0.9)),
        ({"schedule": "cosine", "min_lr": 0.1}, lambda o: lr_scheduler.CosineAnnealingLR(o, 24, eta_min=0.1)),
        (
            {"schedule": "step", "step_epochs": 2, "step_factor": 0.3},
            lambda o: lr_scheduler.StepLR(o, 2 * 4, gamma=0.3),
        ),
        (
            {"schedule": "step", "milestones": (3, 17), "step_factor": 0.3},
            lambda o: lr_scheduler.MultiStepLR(o, [3, 17], gamma=0.3),
        ),
        ({"schedule": "constant"}, lambda o: lr_scheduler.ConstantLR(o, factor=1.0)),
    ],
    ids=["poly", "cosine", "step", "milestones", "constant"],
)
def test_schedules_are_those_of_torch(settings: dict[str, Any], scheduler: Any) -> None:
    assert rates(epochs=6, warmup=0.0, **settings) == pytest.approx(torchs(scheduler))
    assert rates(iterations=24, epochs=99, warmup=0.0, **settings) == pytest.approx(torchs(scheduler))


def test_the_rate_climbs_in_equal_steps_and_then_falls_over_what_is_left() -> None:
    found = rates(epochs=6, warmup=0.25, schedule="poly", power=1.0, min_lr=0.1)
    assert found[:6] == pytest.approx([0.5 * (i + 1) / 7 for i in range(6)])
    assert found[6:] == pytest.approx([0.1 + 0.4 * (1 - i / 18) for i in range(18)])
    done = TrainSettings(epochs=6, lr=0.5, warmup=0.25, schedule="poly", power=1.0, min_lr=0.1)
    assert [learning_rate(done, update, 4) for update in (24, 30)] == pytest.approx([0.1, 0.1])
    assert (updates(done, 4), updates(TrainSettings(iterations=7, epochs=3), 4)) == (24, 7)
    # Where all is warming up there is nothing to fall over.
    assert learning_rate(TrainSettings(epochs=1, lr=0.5, warmup=0.95, schedule="cosine"), 4, 4) == 0.5


def test_the_running_average_is_torchs_and_counters_are_copied() -> None:
    network = Small()
    ours = copy.deepcopy(network)
    theirs = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    theirs.update_parameters(network)  # the first copies
    for step in range(1, 4):
        network.norm(torch.randn(2, 4, 5, 5) + step)
        for parameter in network.parameters():
            parameter.data.add_(torch.randn_like(parameter))
        move_average(ours, network, 0.9)
        theirs.update_parameters(network)
        assert ours.norm.num_batches_tracked == step
    for name, value in theirs.module.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(ours.state_dict()[name], value)
