"""Losses of log depth, in float32; pixels without a depth count nowhere, and a batch without any gives zero.

A criterion maps log depth `[N, 1, H, W]` and the targets (`depth`, metres `[N, H, W]`, 0 where unknown; `image`,
normalised `[N, 3, H, W]`) to a scalar. All but `SILog` and `SquaredGradient` stand in Li et al., "Learning the Depths
of Moving People by Watching Frozen People" (CVPR 2019, 1904.11111, section 4.3; google/mannequinchallenge,
models/networks.py, JointLoss), whose weights are `scale_invariant: 1.5`, `gradient: 0.75`, `smoothness: 0.075`,
`laplacian: 0.1`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# Training normalises images by it; differences of colours count in 0..1.
_STD = (0.229, 0.224, 0.225)
SCALES = 5


@dataclass(frozen=True)
class _Level:
    """One scale of a batch: log depth, its truth and where that is known, all `[N, h, w]`; the image `[N, 3, h, w]`."""

    predicted: Tensor
    truth: Tensor
    known: Tensor
    image: Tensor


class SILog(nn.Module):
    """The scale-invariant log error with half of the mean kept (Eigen et al., NIPS 2014, equation 4, lambda 0.5).

    Args:
        share: lambda: how much of the squared mean difference is forgiven; 1 leaves the scale free.
    """

    def __init__(self, share: float = 0.5) -> None:
        super().__init__()
        self.share = share

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        level = next(_levels(maps, targets))
        difference = torch.where(level.known, level.predicted - level.truth, 0.0)
        count = level.known.sum((1, 2)).clamp(min=1)
        square, mean = (difference**2).sum((1, 2)) / count, difference.sum((1, 2)) / count
        return (square - self.share * mean**2).mean()


class SquaredGradient(nn.Module):
    """The squared slopes of the error of log depth, across and down (Eigen and Fergus, ICCV 2015, equation 1).

    Each direction is the mean over all pairs of neighbours of which both have a depth, as in the authors' file
    (jhmitchel/eecs442normals-w18: models/iccv15/depthnormals_nyud_vgg.py, define_depths_cost). Beside `SILog` with the
    same weight it is their objective.
    """

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        level = next(_levels(maps, targets))
        terms = []
        for slopes, both in zip(_slopes(level.predicted - level.truth), _pairs(level.known), strict=True):
            terms.append(torch.where(both, slopes**2, 0.0).sum() / both.sum().clamp(min=1))
        return torch.stack(terms).sum()


class Gradient(nn.Module):
    """Differences of log depth over two pixels against those of the truth, at five scales (equation 4)."""

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for level in _levels(maps, targets):
            error = level.predicted - level.truth
            sums, counts = [], []
            for one, other in (((..., slice(2, None), slice(None)), (..., slice(None, -2), slice(None))),
                               ((..., slice(2, None)), (..., slice(None, -2)))):  # fmt: skip
                both = level.known[one] & level.known[other]
                sums.append(torch.where(both, (error[one] - error[other]).abs(), 0.0).sum())
                counts.append(both.sum())
            terms.append(torch.stack(sums).sum() / torch.stack(counts).sum().clamp(min=1))
        return torch.stack(terms).sum()


class Smoothness(nn.Module):
    """Slopes of log depth, less where the image has edges; half as much at each coarser scale (equation 5)."""

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for number, level in enumerate(_levels(maps, targets)):
            if min(level.predicted.shape[-2:]) < 2:
                break
            (dx, dy), (ix, iy) = _slopes(level.predicted), _slopes(level.image)
            across = dx.abs() * torch.exp(-ix.abs().mean(1))
            down = dy.abs() * torch.exp(-iy.abs().mean(1))
            terms.append((across[:, :-1] + down[:, :, :-1]).mean() / 2**number)
        return torch.stack(terms).sum() if terms else maps.sum() * 0


class Laplacian(nn.Module):
    """Curvature of log depth, less where the image has some; half as much at each coarser scale."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        kernel = torch.tensor([[0.0, -1.0, 0.0], [-1.0, 4.0, -1.0], [0.0, -1.0, 0.0]])
        self.register_buffer("kernel", kernel[None, None], persistent=False)

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        terms = []
        for number, level in enumerate(_levels(maps, targets)):
            if min(level.predicted.shape[-2:]) < 3:
                break
            curved = F.conv2d(level.predicted[:, None], self.kernel)[:, 0].abs()
            image = F.conv2d(level.image.flatten(0, 1)[:, None], self.kernel).abs()
            image = image.view(len(curved), -1, *curved.shape[-2:]).mean(1)
            terms.append((torch.exp(-image) * curved).mean() / 2**number)
        return torch.stack(terms).sum() if terms else maps.sum() * 0


class UpTo(nn.Module):
    """A criterion for which depths beyond a farthest one are unknown.

    Args:
        criterion: Of log depth and the targets.
        farthest: Metres.
    """

    def __init__(self, criterion: nn.Module, farthest: float) -> None:
        super().__init__()
        self.criterion, self.farthest = criterion, farthest

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        depth = targets["depth"]
        loss: Tensor = self.criterion(maps, {**targets, "depth": torch.where(depth > self.farthest, 0.0, depth)})
        return loss


TERMS: Mapping[str, Callable[[], nn.Module]] = {
    "silog": SILog,
    "scale_invariant": lambda: SILog(1.0),
    "squared_gradient": SquaredGradient,
    "gradient": Gradient,
    "smoothness": Smoothness,
    "laplacian": Laplacian,
}


def _levels(maps: Tensor, targets: Mapping[str, Tensor]) -> Iterator[_Level]:
    """Yield the batch at each scale, of every second row and column of the one before."""
    depth = targets["depth"]
    predicted, known = maps.float()[:, 0], depth > 0
    truth = depth.clamp(min=1e-3).log()
    image = targets["image"].float() * predicted.new_tensor(_STD)[:, None, None]
    for number in range(SCALES):
        every = 2**number
        yield _Level(*(values[..., ::every, ::every] for values in (predicted, truth, known, image)))


def _slopes(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return differences of neighbours to the right and below."""
    return values[..., :, 1:] - values[..., :, :-1], values[..., 1:, :] - values[..., :-1, :]


def _pairs(known: Tensor) -> tuple[Tensor, Tensor]:
    """Return where neighbours to the right and below are both known."""
    return known[..., :, 1:] & known[..., :, :-1], known[..., 1:, :] & known[..., :-1, :]
