"""Batch norm merged into the convolution before it, for inference."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves


@torch.no_grad()
def fuse_batch_norm(model: nn.Module, images: Tensor) -> nn.Module:
    """Return a copy of a network whose batch norms are part of their convolutions; in evaluation it gives the same.

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
    """Convolution -> the batch norm that takes all its results, where nothing else does."""
    uses = _Uses(model)
    with uses:
        model(images)
    pairs: dict[Any, Any] = {}
    for conv, takers in uses.takers.items():
        norm = next(iter(takers), None)
        grouped = isinstance(conv, nn.ConvTranspose2d) and conv.groups > 1
        if len(takers) == 1 and isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats and not grouped:
            pairs[conv] = norm
    # A norm that serves several convolutions, or anything else, belongs to none of them.
    served = list(pairs.values())
    return {conv: norm for conv, norm in pairs.items() if served.count(norm) == 1 and norm not in uses.elsewhere}


class _Uses(TorchFunctionMode):
    """What takes the results of convolutions, watched while the network runs.

    Attributes:
        takers: Convolution -> the modules that take its results; None among them where a function or nobody does.
        elsewhere: Batch norms that take something else than a convolution's result.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.takers: dict[nn.Module, set[nn.Module | None]] = {}
        self.elsewhere: set[nn.Module] = set()
        self._results: dict[int, tuple[nn.Module, Tensor]] = {}  # holds them, so that no two have the same identity
        self._untaken: set[int] = set()
        self._inside = 0
        self._leaves = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d) or not list(m.children())]

    def __enter__(self) -> Any:
        self._hooks = [m.register_forward_pre_hook(self._before) for m in self._leaves]
        self._hooks += [m.register_forward_hook(self._after) for m in self._leaves]
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()
        for key in self._untaken:
            self.takers[self._results[key][0]].add(None)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # What asks for a size alone takes nothing.
        if not self._inside and any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            for value in tree_leaves((args, kwargs)):
                self._take(value, None)
        return result

    def _before(self, module: nn.Module, inputs: tuple[Any, ...]) -> None:
        self._inside += 1
        if isinstance(module, nn.BatchNorm2d) and id(inputs[0]) not in self._results:
            self.elsewhere.add(module)
        for value in inputs:
            self._take(value, module)

    def _after(self, module: nn.Module, _: Any, output: Any) -> None:
        self._inside -= 1
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            self._results[id(output)] = module, output
            self._untaken.add(id(output))
            self.takers.setdefault(module, set())

    def _take(self, value: Any, taker: nn.Module | None) -> None:
        if id(value) in self._results:
            self.takers[self._results[id(value)][0]].add(taker)
            self._untaken.discard(id(value))
