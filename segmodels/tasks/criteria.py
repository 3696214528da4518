"""Sums of criteria, which every task learns by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn


class WeightedSum(nn.Module):
    """The sum of several criteria of the same arguments, each times its weight."""

    def __init__(self, terms: Mapping[str, tuple[float, nn.Module]]) -> None:
        super().__init__()
        self.weights = {name: weight for name, (weight, _) in terms.items()}
        self.terms = nn.ModuleDict({name: term for name, (_, term) in terms.items()})

    def forward(self, maps: Tensor, targets: Any) -> Tensor:
        return torch.stack([self.weights[name] * term(maps, targets) for name, term in self.terms.items()]).sum()
