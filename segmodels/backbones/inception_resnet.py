"""The modules of Inception-ResNet-v2 (Szegedy, Ioffe, Vanhoucke, Alemi, AAAI 2017, arXiv 1602.07261), inside a region.

As Layer Cascade has them: the reductions have no stride, so a network of them stays at stride 8. A branch is written as
its convolutions, (height, width, channels) of each.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.layers.region import Chain, Region, RegionConv, region_max_pool

# Gives a layer's width from its width in the paper.
Width = Callable[[int], int]


class InceptionResidual(nn.Module):
    """Modules A, B and C: branches, joined by a 1x1 convolution, scaled, beside the identity.

    Args:
        channels: Of the input and the output.
        branches: Of the module.
        scale: Factor on what the branches give.
    """

    def __init__(self, channels: int, branches: list[Chain], scale: float) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.join = RegionConv(_channels(branches), channels, norm=False)
        self.scale = scale

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        together = torch.cat([branch(x, region) for branch in self.branches], dim=1)
        return F.relu(x + self.scale * self.join(together, region))


class Reduction(nn.Module):
    """Reductions A and B without their stride: branches beside the 3x3 maximum.

    Args:
        channels: Of the input; `self.channels` are the output's.
        branches: Of the module.
    """

    def __init__(self, channels: int, branches: list[Chain]) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)
        self.channels = channels + _channels(branches)

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        pooled = region_max_pool(x, region)
        return torch.cat([*[branch(x, region) for branch in self.branches], pooled], dim=1)


def stem(in_channels: int, w: Width) -> nn.Sequential:
    """Build the layers up to stride 8, padded; 192 channels leave them."""
    return nn.Sequential(
        _conv(in_channels, w(32), 3, stride=2), _conv(w(32), w(32), 3), _conv(w(32), w(64), 3),
        nn.MaxPool2d(3, stride=2, padding=1),
        _conv(w(64), w(80), 1), _conv(w(80), w(192), 3),
        nn.MaxPool2d(3, stride=2, padding=1),
    )  # fmt: skip


def mixed(c: int, w: Width) -> tuple[nn.ModuleList, RegionConv]:
    """Build the module between the stem and the first module A: its branches, and that of the 3x3 mean."""
    branches = [
        _branch(c, (1, 1, w(96))),
        _branch(c, (1, 1, w(48)), (5, 5, w(64))),
        _branch(c, (1, 1, w(64)), (3, 3, w(96)), (3, 3, w(96))),
    ]
    return nn.ModuleList(branches), RegionConv(c, w(64))


def module_a(c: int, w: Width) -> InceptionResidual:
    """Build Inception-ResNet-A for maps of `c` channels."""
    branches = [
        _branch(c, (1, 1, w(32))),
        _branch(c, (1, 1, w(32)), (3, 3, w(32))),
        _branch(c, (1, 1, w(32)), (3, 3, w(48)), (3, 3, w(64))),
    ]
    return InceptionResidual(c, branches, scale=0.17)


def reduction_a(c: int, w: Width) -> Reduction:
    """Build Reduction-A, between modules A and B."""
    branches = [
        _branch(c, (3, 3, w(384))),
        _branch(c, (1, 1, w(256)), (3, 3, w(256)), (3, 3, w(384))),
    ]
    return Reduction(c, branches)


def module_b(c: int, w: Width) -> InceptionResidual:
    """Build Inception-ResNet-B for maps of `c` channels."""
    branches = [
        _branch(c, (1, 1, w(192))),
        _branch(c, (1, 1, w(128)), (1, 7, w(160)), (7, 1, w(192))),
    ]
    return InceptionResidual(c, branches, scale=0.10)


def reduction_b(c: int, w: Width) -> Reduction:
    """Build Reduction-B, between modules B and C."""
    branches = [
        _branch(c, (1, 1, w(256)), (3, 3, w(384))),
        _branch(c, (1, 1, w(256)), (3, 3, w(288))),
        _branch(c, (1, 1, w(256)), (3, 3, w(288)), (3, 3, w(320))),
    ]
    return Reduction(c, branches)


def module_c(c: int, w: Width) -> InceptionResidual:
    """Build Inception-ResNet-C for maps of `c` channels."""
    branches = [
        _branch(c, (1, 1, w(192))),
        _branch(c, (1, 1, w(192)), (1, 3, w(224)), (3, 1, w(256))),
    ]
    return InceptionResidual(c, branches, scale=0.20)


def _branch(before: int, *convs: tuple[int, int, int]) -> Chain:
    chain = Chain()
    for height, width, after in convs:
        chain.append(RegionConv(before, after, (height, width)))
        before = after
    return chain


def _channels(branches: list[Chain]) -> int:
    """Return channels of the branches' joined outputs."""
    last: list[Any] = [branch[-1] for branch in branches]
    return sum(layer.conv.out_channels for layer in last)


def _conv(before: int, after: int, size: int, *, stride: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(before, after, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(after, eps=1e-3), nn.ReLU(inplace=True))
