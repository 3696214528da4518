"""Layers that compute the pixels of a region alone (Li et al., "Not All Pixels Are Equal", CVPR 2017, section 3.2).

Everything outside the region is zero, and nothing is computed there. A region is a mask, and a convolution inside it a
convolution and a mask; or it is a list of pixels, and a convolution a product of matrices over them. Both give the
same; which one is faster depends on how many pixels are left.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Region:
    """The pixels that are left, as a mask or as a list.

    Args:
        mask: `[N, 1, H, W]`, bool.
        listed: Features are rows of the pixels in the mask, `[K, C]`, not maps.
    """

    def __init__(self, mask: Tensor, *, listed: bool) -> None:
        self.mask, self.listed = mask, listed
        self._tables: dict[tuple[int, int], Tensor] = {}
        if listed:
            self._place = mask[:, 0].nonzero()
            number = torch.full(mask[:, 0].shape, len(self._place), device=mask.device)
            number[self._place.unbind(1)] = torch.arange(len(self._place), device=mask.device)
            self._number = number

    def enter(self, x: Tensor) -> Tensor:
        """Return a map `[N, C, H, W]` inside the region: zero outside of it, or its rows."""
        if not self.listed:
            return x * self.mask
        images, rows, columns = self._place.unbind(1)
        return x[images, :, rows, columns]

    def leave(self, x: Tensor, outside: Tensor) -> Tensor:
        """Return the map `[N, C, H, W]` that is `x` in the region and `outside` elsewhere."""
        if not self.listed:
            return torch.where(self.mask, x, outside)
        out = outside.clone()
        images, rows, columns = self._place.unbind(1)
        out[images, :, rows, columns] = x.to(out.dtype)
        return out

    def windows(self, x: Tensor, height: int, width: int) -> Tensor:
        """Return the window around each row's pixel, `[K, height * width, C]`; zero where it is not in the region."""
        # A last row of zeros is every neighbour that is not in the region.
        return F.pad(x, (0, 0, 0, 1))[self._neighbours(height, width)]

    def _neighbours(self, height: int, width: int) -> Tensor:
        """For each pixel the rows of its window, `[K, height * width]`; K where a neighbour is not in the region."""
        if (height, width) not in self._tables:
            padded = F.pad(self._number, (width // 2, width // 2, height // 2, height // 2), value=len(self._place))
            images, rows, columns = self._place.unbind(1)
            offsets = [(i, j) for i in range(height) for j in range(width)]
            self._tables[height, width] = torch.stack([padded[images, rows + i, columns + j] for i, j in offsets], 1)
        return self._tables[height, width]


class RegionConv(nn.Module):
    """Convolution, batch norm and ReLU inside a region; of the whole map where the region is None.

    Args:
        before: Channels of the input.
        after: Channels of the output.
        size: (height, width) of the kernel.
        norm: With batch norm and ReLU; otherwise with a bias alone.
    """

    def __init__(self, before: int, after: int, size: tuple[int, int] = (1, 1), *, norm: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, after, size, padding=(size[0] // 2, size[1] // 2), bias=not norm)
        self.norm = nn.BatchNorm2d(after, eps=1e-3) if norm else None

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        if region is not None and region.listed:
            return self._rows(x, region)
        x = self.conv(x)
        x = x if self.norm is None else F.relu(self.norm(x))
        return x if region is None else x * region.mask

    def _rows(self, x: Tensor, region: Region) -> Tensor:
        height, width = self.conv.kernel_size
        if height * width > 1:
            x = region.windows(x, height, width).flatten(1)
        weight = self.conv.weight.permute(0, 2, 3, 1).flatten(1)
        x = F.linear(x, weight, self.conv.bias)
        if self.norm is None:
            return x
        n = self.norm
        if isinstance(n, nn.BatchNorm2d):  # otherwise it was merged into the convolution
            x = F.batch_norm(x, n.running_mean, n.running_var, n.weight, n.bias, False, 0.0, n.eps)
        return F.relu(x)


class Chain(nn.ModuleList):
    """Layers one after the other, inside a region."""

    def forward(self, x: Tensor, region: Region | None) -> Tensor:
        for layer in self:
            x = layer(x, region)
        return x


def region_max_pool(x: Tensor, region: Region | None) -> Tensor:
    """Return the maximum of the 3x3 pixels around each one that are in the region; `x` is not negative."""
    if region is not None and region.listed:
        # As features are not negative, the zeros outside the region never win.
        return region.windows(x, 3, 3).amax(1)
    x = F.max_pool2d(x, 3, stride=1, padding=1)
    return x if region is None else x * region.mask
