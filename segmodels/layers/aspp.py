"""Atrous spatial pyramid pooling with image-level features (DeepLab v3, section 3.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from segmodels.layers.conv import conv_bn_relu
from segmodels.layers.norm import PooledBatchNorm2d


class ImagePooling(nn.Module):
    """The image's mean through a 1x1 convolution, spread over the map again."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(in_channels, channels, 1, bias=False),
            PooledBatchNorm2d(channels),
            nn.ReLU(inplace=True),
        )

    def forward(self, x: Tensor) -> Tensor:
        pooled: Tensor = self.project(x)
        return pooled.expand(-1, -1, x.shape[-2], x.shape[-1])


class ASPP(nn.Module):
    """A 1x1 convolution, a dilated 3x3 convolution for each rate and image pooling, joined by a 1x1 convolution.

    `rates` can be set: the weights stay.

    Args:
        in_channels: Channels of the input.
        rates: Dilation of each 3x3 convolution.
        channels: Of every branch and of the output.
        dropout: Probability at the end.
        atrous: Makes a dilated branch of (in_channels, channels, dilation=).
    """

    def __init__(
        self,
        in_channels: int,
        rates: Sequence[int],
        channels: int = 256,
        *,
        dropout: float = 0.1,
        atrous: Callable[..., nn.Module] | None = None,
    ) -> None:
        super().__init__()
        atrous = atrous or conv_bn_relu
        self.convs = nn.ModuleList(
            [
                conv_bn_relu(in_channels, channels, 1),
                *[atrous(in_channels, channels, dilation=rate) for rate in rates],
                ImagePooling(in_channels, channels),
            ]
        )
        self.project = nn.Sequential(*conv_bn_relu(channels * len(self.convs), channels, 1), nn.Dropout(dropout))

    @property
    def rates(self) -> tuple[int, ...]:
        """Dilation of each 3x3 convolution."""
        return tuple(branch[0].dilation[0] for branch in self._atrous())

    @rates.setter
    def rates(self, rates: Sequence[int]) -> None:
        for branch, rate in zip(self._atrous(), rates, strict=True):
            branch[0].dilation = branch[0].padding = (rate, rate)

    def _atrous(self) -> list[Any]:
        return list(self.convs)[1:-1]

    def forward(self, x: Tensor) -> Tensor:
        joined: Tensor = self.project(torch.cat([conv(x) for conv in self.convs], dim=1))
        return joined
