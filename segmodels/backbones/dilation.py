"""Keeping resolution in a network that was made for classification.

"Rethinking Atrous Convolution" (Chen et al., 2017), section 3.1: where the stride would exceed the wanted one it
becomes 1, and every later convolution is dilated by what is missing, so that each sees what it was trained to see.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

# Side of the image on which strides are seen.
_SIDE = 256


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
    factor = 1
    for child, (_, stride) in _strides(body, body.children(), in_channels).items():
        for module in child.modules():
            _set(module, factor, reduces=stride > output_stride)
        factor = max(1, stride // output_stride)
    return tuple(min(s, output_stride) for s in strides)


class Dilations:
    """The strides and dilations of a network's layers at the output stride that it was built at, and below.

    DeepLab v3 trains at 16 and tests at 8 (section 3.3). The weights stay. What becomes of a layer at output stride 8
    follows from the strides of its maps in the network as it was built:

        it takes less than 8    it stays as it is
        it takes 8, gives 16    it loses its stride
        it takes 16             it is dilated twice as much

    Args:
        body: As it was built.
        output_stride: That it was built at.
        in_channels: Channels of the input.
    """

    def __init__(self, body: nn.Module, output_stride: int, in_channels: int = 3) -> None:
        _prepare_shortcuts(body)
        names = {m: name for name, m in body.named_modules() if hasattr(m, "stride") and not list(m.children())}
        # Name of a layer -> strides of what it takes and gives, and its settings as they were built. A map that is
        # coarser than the output stride belongs to attention over the whole image.
        self.layers = {
            names[layer]: (takes, gives, _geometry(layer))
            for layer, (takes, gives) in _strides(body, names, in_channels).items()
            if takes <= output_stride
        }

    def set(self, body: nn.Module, output_stride: int) -> None:
        """Give the layers of a network the strides and dilations of an output stride."""
        for name, layer in body.named_modules():
            if name not in self.layers:
                continue
            takes, gives, built = self.layers[name]
            for key, value in built.items():
                setattr(layer, key, value)
            pointwise = built.get("kernel_size") in (1, (1, 1))
            _set(layer, 1 if pointwise else max(1, takes // output_stride), reduces=gives > max(takes, output_stride))


class ShortcutPool(nn.AvgPool2d):
    """The mean of 2x2 pixels in a ResNet-D's shortcut (He et al., CVPR 2019, figure 2c), with or without its stride.

    Without, a pixel's window reaches to the right and downwards, and is zero beyond the map, as in timm's dilated ones.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1:
            x = F.pad(x, (0, 1, 0, 1))
        return super().forward(x)


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


def _strides(body: nn.Module, modules: Iterable[nn.Module], in_channels: int) -> dict[nn.Module, tuple[int, int]]:
    """Return the strides of what modules take and give, in the order in which they run, seen on an image."""
    seen: dict[nn.Module, tuple[int, int]] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen[module] = (round(_SIDE / inputs[0].shape[-1]), round(_SIDE / output.shape[-1]))

    hooks = [module.register_forward_hook(look) for module in modules]
    # On the meta device sizes are followed, and nothing is computed.
    weights = {name: x.to("meta") for name, x in (*body.named_parameters(), *body.named_buffers())}
    image = torch.empty(1, in_channels, _SIDE, _SIDE, device="meta", dtype=next(body.parameters()).dtype)
    was_training = body.training
    try:
        with torch.no_grad():
            functional_call(body.eval(), weights, (image,))
    finally:
        body.train(was_training)
        for hook in hooks:
            hook.remove()
    return seen


def _set(layer: Any, factor: int, *, reduces: bool) -> None:
    """Dilate a convolution by a factor; take the stride from a layer that reduces the map."""
    strided = reduces and getattr(layer, "stride", 1) not in (1, (1, 1)) and not list(layer.children())
    # An even window without stride would shift the map by half a pixel.
    even = strided and getattr(layer, "kernel_size", 1) in (2, (2, 2))
    if isinstance(layer, nn.Conv2d):
        if strided:
            layer.stride = (1, 1)
        if even:
            layer.padding = "same"
        if factor > 1:
            layer.dilation = (factor * layer.dilation[0], factor * layer.dilation[1])
            if not isinstance(layer.padding, str):
                layer.padding = (factor * layer.padding[0], factor * layer.padding[1])
    elif strided:
        layer.stride = 1
        if even and not isinstance(layer, ShortcutPool):
            layer.kernel_size = 1


def _prepare_shortcuts(body: nn.Module) -> None:
    """Put pools that can lose their stride into the shortcuts of a ResNet-D, in place."""
    for block in body.modules():
        for name, pool in list(block.named_children()):
            # timm's densely connected networks pool by such a window, too, but count the padding.
            if type(pool) is nn.AvgPool2d and pool.kernel_size == 2 and not pool.count_include_pad:
                setattr(block, name, ShortcutPool(2, pool.stride, ceil_mode=True, count_include_pad=False))
