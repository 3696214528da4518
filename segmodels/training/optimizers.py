"""How weights move: the optimiser and its groups, the rate of each update, the running average."""

from __future__ import annotations

import math
from collections.abc import Set
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from segmodels.settings.schema import TrainSettings


def optimizer_for(
    network: nn.Module, s: TrainSettings, new_layers: Set[str], *, fused: bool = False
) -> torch.optim.Optimizer:
    """Return the optimiser of a network; each group's `factor` is what its rate is multiplied with.

    Args:
        network: Its parameters that need no gradient are left out.
        s: Optimiser, rates, momentum, weight decay and what it applies to.
        new_layers: Names of parameters that `weights` did not fill; they learn at `new_layer_lr` times the rate.
        fused: One kernel moves all weights, where torch has one for the optimiser: for GPUs.
    """
    biases = {
        f"{name}.bias" if name else "bias"
        for name, module in network.named_modules()
        if isinstance(module, nn.Linear | _ConvNd) and module.bias is not None
    }
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            factor = math.prod(f for pattern, f in s.lr_factors.items() if _fits(name, pattern))
            # With nothing loaded every layer is new, and none is newer than another.
            if s.weights and name in new_layers:
                factor *= s.new_layer_lr
            if name in biases:
                factor *= s.bias_lr
            decays = parameter.ndim > 1 or (s.decay_biases if name in biases else s.decay_norms)
            groups.setdefault((factor, decays), []).append(parameter)
    listed = [
        {"params": parameters, "weight_decay": s.weight_decay if decays else 0.0, "factor": factor}
        for (factor, decays), parameters in groups.items()
    ]
    optimizer: torch.optim.Optimizer
    if s.optimizer == "adamw":
        optimizer = torch.optim.AdamW(listed, lr=s.lr, fused=fused)
    elif s.optimizer == "adam":
        optimizer = torch.optim.Adam(listed, lr=s.lr, fused=fused)
    elif s.optimizer == "sgd":
        optimizer = torch.optim.SGD(listed, lr=s.lr, momentum=s.momentum, fused=fused)
    elif s.optimizer == "rmsprop_lasagne":
        optimizer = LasagneRMSprop(listed, lr=s.lr)
    else:
        optimizer = torch.optim.RMSprop(listed, lr=s.lr, momentum=s.momentum)
    return optimizer


def _fits(name: str, pattern: str) -> bool:
    """Tell whether a parameter's name begins with a text or fits a pattern with `*`."""
    return fnmatchcase(name, pattern) if "*" in pattern else name.startswith(pattern)


class LasagneRMSprop(torch.optim.Optimizer):
    """RMSprop as Lasagne has it (Lasagne/Lasagne, lasagne/updates.py: rmsprop), which trained FC-DenseNet.

    r = rho r + (1 - rho) g^2 and w = w - lr g / sqrt(r + eps): eps stands under the root, where torch adds it to the
    root, so that small gradients move weights a thousand times less.

    Args:
        params: Groups of parameters.
        lr: Learning rate.
        rho: Decay of the mean of squares.
        eps: Under the root.
        weight_decay: Added to the gradient, times the weight.
    """

    def __init__(self, params: Any, lr: float, rho: float = 0.9, eps: float = 1e-6, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "rho": rho, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Move the weights."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [p for p in group["params"] if p.grad is not None]
            if not moved:
                continue
            gradients = [p.grad for p in moved]
            if group["weight_decay"]:
                gradients = list(torch._foreach_add(gradients, moved, alpha=group["weight_decay"]))
            for p in moved:
                if not self.state[p]:
                    self.state[p]["square_avg"] = torch.zeros_like(p)
            squares = [self.state[p]["square_avg"] for p in moved]
            torch._foreach_mul_(squares, group["rho"])
            torch._foreach_addcmul_(squares, gradients, gradients, value=1 - group["rho"])
            roots = torch._foreach_sqrt(torch._foreach_add(squares, group["eps"]))
            torch._foreach_addcdiv_(moved, gradients, roots, value=-group["lr"])
        return loss


def updates(settings: TrainSettings, per_epoch: int) -> int:
    """Return how often a training moves the weights when an epoch has `per_epoch` updates."""
    return settings.iterations or settings.epochs * per_epoch


def learning_rate(settings: TrainSettings, update: int, per_epoch: int) -> float:
    """Return the rate of update number `update` (from 0) when an epoch has `per_epoch` updates."""
    total = updates(settings, per_epoch)
    warm = round(settings.warmup * total)
    if update < warm:
        return settings.lr * (update + 1) / (warm + 1)
    done = min((update - warm) / max(total - warm, 1), 1.0)
    if settings.schedule == "poly":
        return settings.min_lr + (settings.lr - settings.min_lr) * (1 - done) ** settings.power
    if settings.schedule == "cosine":
        return settings.min_lr + (settings.lr - settings.min_lr) * 0.5 * (1 + math.cos(math.pi * done))
    if settings.schedule == "step":
        if settings.milestones:
            passed = sum(update >= milestone for milestone in settings.milestones)
        else:
            passed = update // per_epoch // settings.step_epochs
        return settings.lr * settings.step_factor**passed
    return settings.lr


@torch.no_grad()
def move_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """average = decay * average + (1 - decay) * network; counters are copied."""
    ours, theirs = average.state_dict(), network.state_dict()
    floating = [k for k, v in ours.items() if v.is_floating_point()]
    torch._foreach_lerp_([ours[k] for k in floating], [theirs[k] for k in floating], 1 - decay)
    for key in ours.keys() - set(floating):
        ours[key].copy_(theirs[key])
