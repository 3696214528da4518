"""The block nearly every paper writes: convolution, batch norm, ReLU."""

from __future__ import annotations

from torch import nn


def conv_bn_relu(
    before: int, after: int, kernel_size: int = 3, *, stride: int = 1, dilation: int = 1, groups: int = 1
) -> nn.Sequential:
    """A convolution without bias that keeps the size (divided by `stride`), batch norm, ReLU."""
    padding = dilation * (kernel_size // 2)
    conv = nn.Conv2d(
        before, after, kernel_size, stride=stride, padding=padding, dilation=dilation, groups=groups, bias=False
    )
    return nn.Sequential(conv, nn.BatchNorm2d(after), nn.ReLU(inplace=True))


def separable_conv_bn_relu(before: int, after: int, *, dilation: int = 1, norm_between: bool = True) -> nn.Sequential:
    """A depthwise 3x3 and a pointwise 1x1 convolution with batch norm and ReLU (DeepLab v3+, figure 3c).

    Args:
        before: Channels of the input.
        after: Channels of the output.
        dilation: Of the depthwise convolution.
        norm_between: Batch norm and ReLU after the depthwise convolution, too.
    """
    layers = list(conv_bn_relu(before, before, 3, dilation=dilation, groups=before))
    return nn.Sequential(*(layers if norm_between else layers[:1]), *conv_bn_relu(before, after, 1))
