"""Keeping resolution in a network that was made for classification.

"Rethinking Atrous Convolution" (Chen et al., 2017), section 3.1: where the stride would exceed the wanted one it
becomes 1, and every later convolution is dilated by what is missing, so that each sees what it was trained to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn


def dilate(body: nn.Module, strides: tuple[int, ...], output_stride: int, in_channels: int = 3) -> tuple[int, ...]:
    """Change a network of stages that follow each other, in place.

    Args:
        body: Its children run one after the other; a child may have branches.
        strides: Of its feature maps.
        output_stride: 8 or 16.
        in_channels: Channels of the input.

    Returns:
        The strides of the changed network's feature maps.
    """
    rate = 1
    for child, stride in _strides(body, in_channels):
        for module in child.modules():
            _set(module, rate, reduces=stride > output_stride)
        rate = max(1, stride // output_stride)
    return tuple(min(s, output_stride) for s in strides)


def _strides(body: nn.Module, in_channels: int) -> list[tuple[nn.Module, int]]:
    """Return each child of the network and the stride of what it gives, seen on an image."""
    side, seen = 256, []
    hooks = [
        child.register_forward_hook(lambda m, _, out: seen.append((m, round(side / out.shape[-1]))))
        for child in body.children()
    ]
    parameter = next(body.parameters())
    was_training = body.training
    try:
        with torch.no_grad():
            body.eval()(torch.zeros(1, in_channels, side, side, device=parameter.device, dtype=parameter.dtype))
    finally:
        body.train(was_training)
        for hook in hooks:
            hook.remove()
    return seen


def _set(module: nn.Module, rate: int, *, reduces: bool) -> None:
    if not isinstance(module, nn.Conv2d | nn.MaxPool2d | nn.AvgPool2d):
        return
    if isinstance(module, nn.Conv2d):
        if reduces:
            module.stride = (1, 1)
        if rate > 1:
            high, wide = module.kernel_size
            module.dilation = (rate, rate)
            module.padding = (rate * (high // 2), rate * (wide // 2))
    elif reduces and module.stride not in (1, (1, 1)):
        module.stride = 1
        if module.kernel_size in (2, (2, 2)):  # an even window without stride would shift the map by half a pixel
            module.kernel_size = 1


class OutputStride:
    """The dilations of a network that works at one output stride in training and at another in evaluation.

    DeepLab v3 trains at 16 and tests at 8 (section 3.3): the weights stay, strides and dilations change.

    Args:
        model: The network; the dilations of its parts are those of training.
        at_test: The same network with the dilations of evaluation; its weights are not looked at.
    """

    def __init__(self, model: nn.Module, at_test: nn.Module) -> None:
        theirs = dict(at_test.named_modules())
        self.settings: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {}
        self.layers: dict[str, tuple[nn.Module, nn.Module]] = {}
        for name, ours in model.named_modules():
            if name not in theirs or any(True for _ in ours.children()):
                continue
            if type(ours) is not type(theirs[name]):  # a pool that has become another pool
                self.layers[name] = (ours, theirs[name])
            elif _geometry(ours) != _geometry(theirs[name]):
                self.settings[name] = (_geometry(ours), _geometry(theirs[name]))

    def apply(self, model: nn.Module, training: bool) -> None:
        """Give the network the dilations of training or of evaluation."""
        for name, settings in self.settings.items():
            for key, value in settings[0 if training else 1].items():
                setattr(model.get_submodule(name), key, value)
        for name, layers in self.layers.items():
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, layers[0 if training else 1])


def set_multi_grid(stage: nn.Module, factors: Sequence[int], rate: int) -> None:
    """Dilate the units of a ResNet's last stage by `rate` times their factor (DeepLab v3, section 3.1.2).

    Args:
        stage: Its children are the units.
        factors: One for each unit.
        rate: The dilation that the stage has at its output stride.
    """
    for unit, factor in zip(stage.children(), factors, strict=True):
        for module in unit.modules():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                module.dilation = module.padding = (rate * factor, rate * factor)


def dilate_alike(body: nn.Module) -> None:
    """Give every 3x3 convolution of a ResNet's stage the dilation of the stage, in place.

    timm and torchvision dilate a stage's first unit like the stage before it, since that is what its weights were
    trained to see; the authors of PSPNet and DeepLab v2 dilate all units alike. Other networks stay as they are.

    Args:
        body: Its children `layer1` to `layer4` are the stages.
    """
    for name, stage in body.named_children():
        if not name.startswith("layer"):
            continue
        convs = [m for m in stage.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3)]
        rate = max((conv.dilation[0] for conv in convs), default=1)
        for conv in convs:
            conv.dilation = conv.padding = (rate, rate)


def stride_first(body: nn.Module) -> None:
    """Move the stride of a ResNet's bottlenecks from their 3x3 to their first 1x1 convolution, in place.

    So it is in the ResNets that He et al. released for Caffe, and in those that others trained from them.

    Args:
        body: Units with `conv1` and `conv2` anywhere in it are bottlenecks where `conv1` is 1x1.
    """
    for unit in body.modules():
        first, second = getattr(unit, "conv1", None), getattr(unit, "conv2", None)
        if isinstance(first, nn.Conv2d) and isinstance(second, nn.Conv2d) and first.kernel_size == (1, 1):
            first.stride, second.stride = second.stride, (1, 1)


def _geometry(layer: nn.Module) -> dict[str, Any]:
    """Return what of a convolution or a pool depends on the stride."""
    keys = ("kernel_size", "stride", "padding", "dilation", "ceil_mode")
    return {key: getattr(layer, key) for key in keys if hasattr(layer, key)}
