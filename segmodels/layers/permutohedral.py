"""Gaussian filtering of high-dimensional points on the permutohedral lattice.

Andrew Adams, Jongmin Baek, Abe Davis. Fast High-Dimensional Filtering Using the Permutohedral Lattice. Eurographics
2010. Values are splatted to the corners of each point's simplex, blurred along the lattice's d + 1 axes, and sliced
back: linear in the number of points where the plain sum is quadratic.

All points of a batch share one lattice, their image's number being a coordinate that nothing blurs across. Corners
are found by sorting their keys, not by a hash table, so every step is an operation over whole tensors. Splat and
slice are sums of a few weighted rows, which is what `embedding_bag` computes fastest on a CPU and on a GPU.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


class PermutohedralLattice:
    """The lattice around a batch of points.

    Args:
        features: Positions `[N, P, d]` of the P points of each of N images, in units of the kernel's standard
            deviation. They are taken as given: nothing is differentiated with respect to them.
    """

    def __init__(self, features: Tensor) -> None:
        images, points, d = features.shape
        self.points = images * points
        features = features.detach().reshape(-1, d)
        corners, weights = _simplex(features)
        image = torch.arange(images, device=features.device).repeat_interleave(points)
        keys, steps = _pack(corners, image, images)
        if torch.compiler.is_exporting():
            # As many vertices as corners: their true number would depend on the content of the images.
            unique, self.vertex = _ranked(keys.flatten())
        else:
            unique, self.vertex = torch.unique(keys.flatten(), return_inverse=True)
        self.count = unique.shape[0]
        self.vertex = self.vertex.view(-1, d + 1)
        self.weights = weights
        # What a vertex collects: its entries in a row, so that every sum has one writer.
        order = torch.argsort(self.vertex.flatten(), stable=True)
        self._entries = order // (d + 1)
        self._entry_weights = weights.flatten()[order]
        self._starts = torch.searchsorted(
            self.vertex.flatten()[order], torch.arange(self.count, device=features.device)
        )
        self.neighbours = [(self._find(unique, unique + s), self._find(unique, unique - s)) for s in steps]
        self._scale = 1 / (1 + 2.0**-d)

    def filter(self, values: Tensor) -> Tensor:
        """The Gaussian-weighted sum over all points, the point itself among them.

        Args:
            values: `[N * P, C]`, a row for each point.

        Returns:
            `[N * P, C]`; differentiable with respect to `values`.
        """
        if torch.compiler.is_exporting():
            return self._filter(values, reverse=False)
        filtered: Tensor = _Filter.apply(values, self)
        return filtered

    def _filter(self, values: Tensor, *, reverse: bool) -> Tensor:
        """Splat, blur, slice; `reverse` blurs the axes in the opposite order, which is the transposed operator."""
        values = values.contiguous()
        weights, entry_weights = self.weights.to(values.dtype), self._entry_weights.to(values.dtype)
        lattice = F.embedding_bag(
            self._entries, values, self._starts, mode="sum", per_sample_weights=entry_weights
        )
        # A row of zeros stands for every vertex that no point has touched.
        lattice = F.pad(lattice, (0, 0, 0, 1))
        for ahead, behind in reversed(self.neighbours) if reverse else self.neighbours:
            blurred = lattice.index_select(0, ahead).add_(lattice.index_select(0, behind))
            lattice = F.pad(lattice[:-1] + blurred.mul_(0.5), (0, 0, 0, 1))
        return F.embedding_bag(self.vertex, lattice, mode="sum", per_sample_weights=weights) * self._scale

    def _find(self, unique: Tensor, keys: Tensor) -> Tensor:
        """The vertex of each key, `count` where there is none."""
        place = torch.searchsorted(unique, keys).clamp(max=self.count - 1)
        return torch.where(unique[place] == keys, place, self.count)


class _Filter(torch.autograd.Function):
    """The filter is linear; the gradient of its input is the transposed filter of its output's gradient."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, lattice: PermutohedralLattice) -> Tensor:
        ctx.lattice = lattice
        return lattice._filter(values, reverse=False)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return ctx.lattice._filter(gradients[0], reverse=True), None


def _simplex(features: Tensor) -> tuple[Tensor, Tensor]:
    """The corners `[P, d + 1, d + 1]` (integer) of the simplex around each point and its weights `[P, d + 1]`."""
    points, d = features.shape
    device = features.device
    # Section 3.1: onto the hyperplane x . 1 = 0, scaled so that the blur's variance becomes the kernel's.
    axis = torch.arange(d, device=device, dtype=features.dtype)
    scaled = features * ((d + 1) * (2 / 3) ** 0.5 / torch.sqrt((axis + 1) * (axis + 2)))
    suffix = F.pad(scaled.flip(1).cumsum(1).flip(1), (0, 1))
    elevated = suffix - F.pad(axis + 1, (1, 0)) * F.pad(scaled, (1, 0))

    # The nearest point whose coordinates are multiples of d + 1, and the order of the distances to it.
    nearest = torch.round(elevated / (d + 1)) * (d + 1)
    difference = elevated - nearest
    rank = torch.argsort(torch.argsort(difference, dim=1, descending=True, stable=True), dim=1)
    # Rounding may have left the hyperplane; as many coordinates as it is off move by one multiple.
    off = (nearest.sum(1, keepdim=True) / (d + 1)).round().long()
    rank = rank + off
    low, high = rank < 0, rank > d
    rank = rank + (d + 1) * (low.long() - high.long())
    nearest = nearest + (d + 1) * (low.to(nearest.dtype) - high.to(nearest.dtype))

    # Barycentric coordinates from the sorted differences (proposition 4.1 of the paper).
    ordered = torch.zeros_like(elevated).scatter_(1, rank, elevated - nearest) / (d + 1)
    weights = torch.cat([1 + ordered[:, -1:] - ordered[:, :1], (ordered[:, :-1] - ordered[:, 1:]).flip(1)], 1)

    # Corner k has remainder k: k is added everywhere, and d + 1 taken from the k coordinates of highest rank.
    corner = torch.arange(d + 1, device=device)
    canonical = corner[:, None] - (d + 1) * (corner[None, :] > d - corner[:, None]).long()
    return nearest.long()[:, None, :] + canonical[:, rank].transpose(0, 1), weights


def _pack(corners: Tensor, image: Tensor, images: int) -> tuple[Tensor, list[Tensor]]:
    """One integer for each corner `[P, d + 1]`, and what to add to it for a step along each axis.

    The last coordinate is left out: it is minus the sum of the others.
    """
    d = corners.shape[-1] - 1
    coordinates = corners[..., :d]
    # A step changes a coordinate by d at most; with that margin no neighbour spills into the next coordinate.
    low = coordinates.amin((0, 1)) - d
    span = coordinates.amax((0, 1)) + d + 1 - low
    strides = [torch.ones_like(span[0])]
    for size in span[:-1].unbind():
        strides.append(strides[-1] * size)
    stride = torch.stack(strides)
    keys = ((coordinates - low) * stride).sum(-1) + (image * (stride[-1] * span[-1]))[:, None]
    steps = []
    for axis in range(d + 1):
        step = torch.ones_like(stride)
        if axis < d:
            step[axis] = -d
        steps.append((step * stride).sum())
    return keys, steps


def _ranked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Sorted keys and each key's first place among them: as `unique`, but of fixed size, with repetitions."""
    ordered, _ = keys.sort()
    return ordered, torch.searchsorted(ordered, keys)
