"""Batch norm merged into the convolution before it, for inference."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights


@torch.no_grad()
def fuse_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """A copy of a network whose batch norms are part of their convolutions; in evaluation it gives the same.

    Which norm follows which convolution is seen on a pass of the images, so it does not matter how the network names
    and nests its layers. A convolution whose result goes anywhere else, too, stays as it is.

    Args:
        model: Its own mode and weights are left alone.
        images: `[N, C, H, W]`, anything that the network takes.

    Returns:
        The copy, in evaluation mode.
    """
    fused = copy.deepcopy(model).eval()
    pairs = _pairs(fused, images)
    names = {module: name for name, module in fused.named_modules()}
    for conv, norm in pairs.items():
        transposed = isinstance(conv, nn.ConvTranspose2d)
        conv.weight, bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias, transposed
        )
        conv.bias = bias
        parent, _, child = names[norm].rpartition(".")
        # timm's batch norms carry the activation that follows.
        setattr(fused.get_submodule(parent), child, getattr(norm, "act", nn.Identity()))
    return fused


def _pairs(model: nn.Module, images: Tensor) -> dict[Any, Any]:
    """Convolution -> the batch norm that takes its result, where nothing else does."""
    made: dict[int, nn.Module] = {}
    alive: list[Tensor] = []  # keeps every result, so that no two have the same identity
    followed: dict[nn.Module, set[nn.Module | None]] = {}

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            made[id(output)] = module
            alive.append(output)

    def before(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        for value in inputs:
            if isinstance(value, Tensor) and id(value) in made:
                followed.setdefault(made[id(value)], set()).add(module)

    leaves = [m for m in model.modules() if not any(True for _ in m.children()) or isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(after) for m in leaves if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]
    hooks += [m.register_forward_pre_hook(before) for m in leaves]
    try:
        model(images)
    finally:
        for hook in hooks:
            hook.remove()
    pairs: dict[Any, Any] = {}
    for conv, takers in followed.items():
        norm = next(iter(takers))
        grouped = isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1
        if len(takers) == 1 and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats and not grouped:
            pairs[conv] = norm
    # A norm that serves several convolutions belongs to none of them.
    return {conv: norm for conv, norm in pairs.items() if list(pairs.values()).count(norm) == 1}
