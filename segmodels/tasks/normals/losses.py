"""Losses of surface normals, in float32; pixels without a normal count nowhere, and a batch without any gives zero.

A criterion maps vectors of any length `[N, 3, H, W]` and the targets (`normals`, unit vectors `[N, 3, H, W]`, zero
where unknown) to a scalar.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Cosine(nn.Module):
    """One minus the cosine of the angle (as Eigen and Fergus, ICCV 2015, section 4.2, up to the constant)."""

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        cosine, _, known = _between(maps, targets)
        return torch.where(known, 1 - cosine, 0.0).sum() / known.sum().clamp(min=1)


class Angular(nn.Module):
    """The angle itself, in radians; its gradient stays finite where the two agree."""

    def forward(self, maps: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        cosine, sine, known = _between(maps, targets)
        return torch.where(known, torch.atan2(sine, cosine), 0.0).sum() / known.sum().clamp(min=1)


TERMS: Mapping[str, Callable[[], nn.Module]] = {"angular": Angular, "cosine": Cosine}


def _between(maps: Tensor, targets: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Return cosine and sine of the angle between prediction and truth, and where that is known, `[N, H, W]`."""
    truth = targets["normals"]
    given = F.normalize(maps.float(), dim=1)
    # A root whose argument is nothing has no gradient.
    sine = (torch.linalg.cross(given, truth, dim=1) ** 2).sum(1).add(1e-12).sqrt()
    return (given * truth).sum(1), sine, truth.ne(0).any(1)
