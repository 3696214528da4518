"""Errors of surface normals as a torchmetrics metric, which sums over batches and processes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics import Metric


class AngularErrors(Metric):
    """Sums angles, and the pixels whose angle is under 30 degrees, where a normal is known."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(3, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch: vectors `[N, 3, H, W]`, and unit vectors under `normals`, of their size."""
        truth = targets["normals"]
        known = truth.ne(0).any(1)
        cosine = (F.normalize(maps.float(), dim=1) * truth).sum(1)[known].clamp(-1, 1)
        angle = cosine.acos() * (180 / math.pi)
        self.sums += torch.stack([known.sum().double(), angle.double().sum(), (angle < 30).double().sum()])

    def compute(self) -> Tensor:
        """Pixels, summed degrees, pixels under 30 degrees."""
        return self.sums

    def figures(self) -> dict[str, float]:
        """Return the mean angle in degrees, and the share of pixels under 30."""
        count, total, close = self.compute().tolist()
        return {"mean_angle": total / max(count, 1.0), "under_30": close / max(count, 1.0)}
