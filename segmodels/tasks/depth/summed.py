"""Errors of depth as a torchmetrics metric, which sums over batches and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torchmetrics import Metric


class DepthErrors(Metric):
    """Sums what AbsRel, RMSE and the first share under a threshold need, over pixels that have a depth.

    Args:
        farthest: Metres: pixels whose truth is farther are left out, and predictions count as at most so far; None
            counts all.
    """

    full_state_update = False
    sums: Tensor

    def __init__(self, farthest: float | None = None) -> None:
        super().__init__()
        self.farthest = math.inf if farthest is None else farthest
        self.add_state("sums", torch.zeros(4, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch: log depth `[N, 1, H, W]`, and metres under `depth`, of their size."""
        truth = targets["depth"]
        known = (truth > 0) & (truth <= self.farthest)
        log = maps[:, 0].float()[known].clamp(-7, 7)
        depth, truth = log.exp().clamp(max=self.farthest), truth[known]
        ratio = torch.maximum(depth / truth, truth / depth)
        errors = ((depth - truth).abs() / truth, (depth - truth) ** 2, ratio < 1.25)
        self.sums += torch.stack([known.sum().double(), *(error.double().sum() for error in errors)])

    def compute(self) -> Tensor:
        """Pixels, summed relative and squared errors, pixels under the threshold."""
        return self.sums

    def figures(self) -> dict[str, float]:
        """Return AbsRel, RMSE and the share of pixels less than 1.25 times off."""
        count, relative, square, close = self.compute().tolist()
        count = max(count, 1.0)
        return {"abs_rel": relative / count, "rmse": (square / count) ** 0.5, "delta1": close / count}
