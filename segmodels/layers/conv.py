"""The block nearly every paper writes: convolution, batch norm, ReLU. Convolutions larger than their map."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def conv_bn_relu(
    before: int, after: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """Return a convolution without bias that keeps the size (divided by `stride`), batch norm, ReLU."""
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(
        before, after, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def separable_conv_bn_relu(before: int, after: int, *, dilation: int = 1, norm_between: bool = True) -> nn.Sequential:
    """Return a depthwise 3x3 and a pointwise 1x1 convolution with batch norm and ReLU (DeepLab v3+, figure 3c).

    Args:
        before: Channels of the input.
        after: Channels of the output.
        dilation: Of the depthwise convolution.
        norm_between: Batch norm and ReLU after the depthwise convolution, too.
    """
    layers = list(conv_bn_relu(before, before, 3, dilation=dilation, groups=before))
    return nn.Sequential(*(layers if norm_between else layers[:1]), *conv_bn_relu(before, after, 1))


class WideConv2d(nn.Conv2d):
    """A convolution that keeps the size, whose kernel may be larger than the map.

    Taps that see nothing but padding are left out. oneDNN (3.x, bf16) does not write their gradients on maps of one or
    two rows: what the memory held before, NaN perhaps, would go into the weights.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        kernel_size: Odd.
    """

    def __init__(self, before: int, after: int, kernel_size: int) -> None:
        super().__init__(before, after, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor) -> Tensor:
        reach = _reach(self.kernel_size[0], x)
        if reach is None:
            return super().forward(x)
        return F.conv2d(x, _taps(self.weight, reach), self.bias, padding=reach)


class WideConvTranspose2d(nn.ConvTranspose2d):
    """`WideConv2d`'s transpose; it keeps the size, too."""

    def __init__(self, before: int, after: int, kernel_size: int) -> None:
        super().__init__(before, after, kernel_size, padding=kernel_size // 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        reach = _reach(self.kernel_size[0], x)
        if reach is None:
            return super().forward(x, output_size)
        return F.conv_transpose2d(x, _taps(self.weight, reach), self.bias, padding=reach)


class ScoreConv2d(nn.Conv2d):
    """A 1x1 convolution from many channels to the classes.

    Its bias is added apart where autocast computes it on a CPU: oneDNN (3.x, bf16, AMX) writes gradients of biases in
    blocks of 16, beyond the end of fewer than that where the input has 4096 channels, which ends the process sooner or
    later ("corrupted size vs. prev_size").

    Args:
        before: Channels of the input.
        after: Number of classes.
    """

    def __init__(self, before: int, after: int) -> None:
        super().__init__(before, after, 1)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type != "cpu" or self.bias is None or not torch.is_autocast_enabled("cpu"):
            return super().forward(x)
        return F.conv2d(x, self.weight) + self.bias[:, None, None]


def _reach(kernel_size: int, x: Tensor) -> tuple[int, int] | None:
    """Return how far taps from the centre can see the map; None where all of them do."""
    # An exported graph is for maps of any size.
    if torch.compiler.is_exporting() or min(x.shape[-2:]) > kernel_size // 2:
        return None
    height, width = (min(kernel_size // 2, side - 1) for side in x.shape[-2:])
    return height, width


def _taps(weight: Tensor, reach: tuple[int, int]) -> Tensor:
    """Return the middle of a kernel, as far as `reach` from its centre."""
    rows, columns = (slice(size // 2 - r, size // 2 + r + 1) for size, r in zip(weight.shape[2:], reach, strict=True))
    return weight[:, :, rows, columns]
