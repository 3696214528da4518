"""The confusion matrix as a torchmetrics metric, which sums over batches and processes.

It stands alone since importing torchmetrics takes seconds, and only training has several processes.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from segmodels.tasks.semantic.metrics import confusion_matrix, scores


class ConfusionMatrix(Metric):
    """Sums confusion matrices over batches and over processes.

    Args:
        num_classes: C.
    """

    full_state_update = False
    matrix: Tensor

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.add_state("matrix", torch.zeros(num_classes, num_classes, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, maps: Tensor, targets: Mapping[str, Tensor]) -> None:
        """Add a batch: scores of each class `[N, C, H, W]`, and class ids under `labels`, of their size."""
        self.matrix += confusion_matrix(maps.argmax(1).to(torch.uint8), targets["labels"], self.num_classes)

    def figures(self) -> dict[str, float]:
        """Return what the confusion matrix tells (`segmodels.tasks.semantic.metrics.scores`)."""
        return scores(self.counts())

    def counts(self) -> np.ndarray:
        """As `compute`, on the CPU; of one class, too, whose matrix torchmetrics gives as a number."""
        matrix: np.ndarray = self.compute().reshape(self.num_classes, self.num_classes).cpu().numpy()
        return matrix

    def compute(self) -> Tensor:
        """int64 `[C, C]`, rows truth, columns prediction."""
        return self.matrix
