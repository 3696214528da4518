"""How weights move: the optimiser and its groups, the rate of each update, the running average."""

from __future__ import annotations

import math
from collections.abc import Set

import torch
from torch import nn

from segmodels.settings import TrainSettings


def optimizer_for(network: nn.Module, s: TrainSettings, new_layers: Set[str]) -> torch.optim.Optimizer:
    """The optimiser of a network; each group's `factor` is what its rate is multiplied with.

    Args:
        network: Its parameters that need no gradient are left out.
        s: Optimiser, rates, momentum, weight decay (not of norms and biases).
        new_layers: Names of parameters that `weights` did not fill; they learn at `new_layer_lr` times the rate.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = next((f for start, f in s.lr_factors.items() if name.startswith(start)), 1.0)
            # With nothing loaded every layer is new, and none is newer than another.
            if s.weights and name in new_layers:
                factor *= s.new_layer_lr
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": s.weight_decay if decay else 0.0, "factor": factor}
        for (factor, decay), parameters in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if s.optimizer == "adamw":
        optimizer = torch.optim.AdamW(listed, lr=s.lr)
    elif s.optimizer == "adam":
        optimizer = torch.optim.Adam(listed, lr=s.lr)
    elif s.optimizer == "sgd":
        optimizer = torch.optim.SGD(listed, lr=s.lr, momentum=s.momentum)
    else:
        optimizer = torch.optim.RMSprop(listed, lr=s.lr, momentum=s.momentum)
    return optimizer


def learning_rate(settings: TrainSettings, update: int, per_epoch: int) -> float:
    """The rate of update number `update` (from 0) when an epoch has `per_epoch` updates."""
    total = settings.epochs * per_epoch
    warm = round(settings.warmup * total)
    if update < warm:
        return settings.lr * (update + 1) / (warm + 1)
    done = (update - warm) / max(total - warm, 1)
    if settings.schedule == "poly":
        return settings.lr * (1 - min(done, 1.0)) ** settings.power
    if settings.schedule == "cosine":
        return settings.lr * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    if settings.schedule == "step":
        return settings.lr * settings.step_factor ** (update // per_epoch // settings.step_epochs)
    return settings.lr


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network; counters are copied."""
    ours, theirs = average.state_dict(), network.state_dict()
    floating = [k for k, v in ours.items() if v.is_floating_point()]
    torch._foreach_lerp_([ours[k] for k in floating], [theirs[k] for k in floating], 1 - decay)
    for key in ours.keys() - set(floating):
        ours[key].copy_(theirs[key])
