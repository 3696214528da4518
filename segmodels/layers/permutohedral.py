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
        features = features.detach()
        nearest, rank, weights = _simplex(features.reshape(-1, d).T)
        image = torch.arange(images, device=features.device).repeat_interleave(points)
        keys, steps = _keys(nearest, rank, image)
        if torch.compiler.is_exporting() or features.is_meta:
            # As many vertices as corners: their true number depends on the content of the images.
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
        """Return the Gaussian-weighted sum over all points, the point itself among them.

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
        lattice = F.embedding_bag(self._entries, values, self._starts, mode="sum", per_sample_weights=entry_weights)
        # A row of zeros stands for every vertex that no point has touched.
        lattice = F.pad(lattice, (0, 0, 0, 1))
        for ahead, behind in reversed(self.neighbours) if reverse else self.neighbours:
            blurred = lattice.index_select(0, ahead).add_(lattice.index_select(0, behind))
            lattice = F.pad(lattice[:-1] + blurred.mul_(0.5), (0, 0, 0, 1))
        return F.embedding_bag(self.vertex, lattice, mode="sum", per_sample_weights=weights) * self._scale

    def _find(self, unique: Tensor, keys: Tensor) -> Tensor:
        """Return the vertex of each key, `count` where there is none."""
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


def _simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the simplex of the lattice around each point.

    Args:
        features: Positions `[d, P]`.

    Returns:
        The simplex's corner of remainder 0, `[d + 1, P]`; the rank of each coordinate's distance to it, `[d + 1, P]`;
        the point's barycentric weights of the corners of remainder 0..d, `[P, d + 1]`.
    """
    d = features.shape[0]
    # Section 3.1: onto the hyperplane x . 1 = 0, scaled so that the blur's variance becomes the kernel's.
    axis = torch.arange(d, device=features.device, dtype=features.dtype)[:, None]
    scaled = features * ((d + 1) * (2 / 3) ** 0.5 / torch.sqrt((axis + 1) * (axis + 2)))
    later = F.pad(scaled.flip(0).cumsum(0).flip(0), (0, 0, 0, 1))
    elevated = later - F.pad(axis + 1, (0, 0, 1, 0)) * F.pad(scaled, (0, 0, 1, 0))

    # The nearest point whose coordinates are multiples of d + 1, and the order of the distances to it.
    nearest = torch.round(elevated / (d + 1)) * (d + 1)
    difference = elevated - nearest
    rank = torch.zeros_like(difference, dtype=torch.long)
    for i in range(d + 1):
        for j in range(i + 1, d + 1):
            less = difference[i] < difference[j]
            rank[i] += less
            rank[j] += ~less
    # Rounding may have left the hyperplane; as many coordinates as it is off move by one multiple.
    rank += (nearest.sum(0) / (d + 1)).round().long()
    move = (rank < 0).long() - (rank > d).long()
    rank += (d + 1) * move
    nearest += (d + 1) * move

    # Barycentric coordinates from the sorted distances (proposition 4.1).
    distance = torch.zeros_like(elevated).scatter_(0, rank, (elevated - nearest) / (d + 1))
    weights = torch.cat([1 + distance[-1:] - distance[:1], (distance[:-1] - distance[1:]).flip(0)])
    return nearest.long(), rank, weights.T.contiguous()


def _keys(nearest: Tensor, rank: Tensor, image: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Return one integer for each corner of each simplex, and what to add to it for a step along each axis.

    Args:
        nearest: The corner of remainder 0, `[d + 1, P]`.
        rank: Of each coordinate, `[d + 1, P]`.
        image: Which image each point is of, `[P]`.

    Returns:
        Keys `[P, d + 1]`, and the step along each of the d + 1 axes.
    """
    d = nearest.shape[0] - 1
    # Corners and steps each change a coordinate by d at most; with that margin none spills into the next one. The
    # last coordinate is minus the sum of the others and has no place in the key.
    low = nearest[:d].amin(1) - 2 * d
    span = nearest[:d].amax(1) + 2 * d + 1 - low
    strides = [torch.ones_like(span[0])]
    for size in span.unbind():
        strides.append(strides[-1] * size)
    stride = torch.stack(strides[:-1])
    # Corner k adds k to all coordinates and takes d + 1 from the k coordinates of highest rank.
    by_rank = torch.zeros_like(rank).scatter_(0, rank, F.pad(stride, (0, 1))[:, None].expand_as(rank))
    taken = F.pad(by_rank.flip(0)[:-1], (0, 0, 1, 0)).cumsum(0)
    corner = torch.arange(d + 1, device=rank.device)[:, None]
    first = ((nearest[:d] - low[:, None]) * stride[:, None]).sum(0) + image * strides[-1]
    steps = [stride.sum() - (d + 1) * stride[axis] for axis in range(d)] + [stride.sum()]
    return (first + corner * stride.sum() - (d + 1) * taken).T.contiguous(), steps


def _ranked(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return sorted keys and each key's first place among them: as `unique`, but of fixed size, with repetitions."""
    ordered, _ = keys.sort()
    return ordered, torch.searchsorted(ordered, keys)
