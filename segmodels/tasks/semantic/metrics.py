"""Quality of label maps: the confusion matrix and what follows from it, boundary F1, calibration.

Fractions are in 0..1. A class that occurs neither in the truth nor in the prediction has IoU NaN and is left out of
the mean. Intersections and unions are summed over the whole set before they are divided.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

IGNORE_INDEX = 255


def confusion_matrix(prediction: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Count of (true, predicted) pairs.

    Ignored pixels go to an extra bin in place of being selected away: one pass over the pixels, no copy of them.

    Args:
        prediction: Class ids, any shape, any integer type, each below `num_classes`.
        target: Class ids of the same shape; 255 is ignored.
        num_classes: C.

    Returns:
        int64 `[C, C]`, rows truth, columns prediction.
    """
    wide = torch.int16 if num_classes <= 180 else torch.int32
    # 255 in an 8-bit label times C may not fit: clamp to the extra row first.
    pairs = target.to(wide).clamp(max=num_classes).mul_(num_classes).add_(prediction.to(wide))
    counts = torch.bincount(pairs.flatten(), minlength=num_classes * (num_classes + 1))
    return counts[: num_classes**2].view(num_classes, num_classes)


def scores(matrix: np.ndarray) -> dict[str, float]:
    """mIoU, pixel accuracy, mean accuracy and frequency-weighted IoU of a confusion matrix `[C, C]`."""
    iou, accuracy = class_iou(matrix), class_accuracy(matrix)
    truth = matrix.sum(1)
    total = max(int(truth.sum()), 1)
    return {
        "miou": float(class_mean(iou)),
        "pixel_accuracy": float(np.trace(matrix) / total),
        "mean_accuracy": float(class_mean(accuracy)),
        "fwiou": float(np.nansum(iou * truth) / total),
    }


def class_iou(matrix: np.ndarray) -> np.ndarray:
    """Intersection over union of each class `[C]`; NaN where neither truth nor prediction has it."""
    hit = np.diag(matrix).astype(np.float64)
    union = matrix.sum(0) + matrix.sum(1) - hit
    return np.divide(hit, union, out=np.full(len(hit), np.nan), where=union > 0)


def class_accuracy(matrix: np.ndarray) -> np.ndarray:
    """Return share of each class's pixels that were found `[C]`; NaN where the truth has none."""
    truth = matrix.sum(1).astype(np.float64)
    return np.divide(np.diag(matrix), truth, out=np.full(len(truth), np.nan), where=truth > 0)


class BoundaryF1:
    """Boundary F1 (Csurka et al., BMVC 2013): per image and class, then averaged over the images that have the class.

    A predicted boundary pixel counts as found when a true boundary pixel of its class lies within `tolerance` pixels
    (in a square neighbourhood), and the other way round.

    Args:
        num_classes: C.
        tolerance: Pixels.
    """

    def __init__(self, num_classes: int, tolerance: int = 3) -> None:
        self.num_classes, self.tolerance = num_classes, tolerance
        self.total = np.zeros(num_classes)
        self.images = np.zeros(num_classes, np.int64)

    def update(self, prediction: Tensor, target: Tensor) -> None:
        """Add one image: class ids `[H, W]` each; pixels that the target ignores are no boundary in either."""
        truth, guess = target.cpu().numpy(), prediction.cpu().numpy()
        void = truth == IGNORE_INDEX
        edges = _boundary(truth, void), _boundary(guess, void)
        (truth_count, recall), (guess_count, precision) = (
            self._near(label, edge, other, other_edge)
            for label, edge, other, other_edge in (
                (truth, edges[0], guess, edges[1]),
                (guess, edges[1], truth, edges[0]),
            )
        )
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        has = truth_count + guess_count > 0
        self.total[has] += f1[has]
        self.images += has

    def compute(self) -> np.ndarray:
        """F1 of each class `[C]`; NaN for a class without any boundary."""
        return np.divide(self.total, self.images, out=np.full(self.num_classes, np.nan), where=self.images > 0)

    def _near(
        self, label: np.ndarray, edge: np.ndarray, other: np.ndarray, other_edge: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return of each class the boundary pixels, and the share that have one of the other map within tolerance."""
        k = self.tolerance
        there = np.full((label.shape[0] + 2 * k, label.shape[1] + 2 * k), IGNORE_INDEX, np.uint8)
        there[k : k + label.shape[0], k : k + label.shape[1]] = np.where(other_edge, other, IGNORE_INDEX)
        rows, columns = np.nonzero(edge)
        classes = label[rows, columns]
        # Boundaries are few pixels: looking around each of them is a hundred times less work than widening planes.
        place, wide = rows * there.shape[1] + columns, there.ravel()
        near = np.zeros(len(classes), bool)
        for row in range(2 * k + 1):
            for column in range(2 * k + 1):
                near |= wide[place + (row * there.shape[1] + column)] == classes
        count = np.bincount(classes, minlength=self.num_classes)
        return count, np.bincount(classes[near], minlength=self.num_classes) / np.maximum(count, 1)


class CalibrationError:
    """Expected calibration error (Guo et al., ICML 2017, equation 3) over pixels, in equal bins of confidence."""

    def __init__(self, bins: int = 15) -> None:
        self.bins = bins
        self.count, self.confidence, self.correct = np.zeros((3, bins))

    def update(self, confidence: Tensor, prediction: Tensor, target: Tensor) -> None:
        """Add pixels: the probability of the predicted class, the prediction and the target, all of one shape."""
        truth = target.cpu().numpy().ravel()
        sure = confidence.cpu().float().numpy().ravel()
        index = np.clip((sure * np.float32(self.bins)).astype(np.intp), 0, self.bins - 1)
        # Void goes to a bin behind the others in place of being selected away: no copies of the pixels.
        index[truth == IGNORE_INDEX] = self.bins
        hits = np.bincount(2 * index + (prediction.cpu().numpy().ravel() == truth), minlength=2 * self.bins + 2)
        missed, correct = hits.reshape(-1, 2)[: self.bins].T
        self.count += missed + correct
        self.correct += correct
        self.confidence += np.bincount(index, weights=sure, minlength=self.bins)[: self.bins]

    def sums(self) -> np.ndarray:
        """Return pixels, summed confidence and correct pixels of each bin, float64 `[3, bins]`."""
        return np.stack([self.count, self.confidence, self.correct])

    def compute(self) -> float:
        """Return mean distance between confidence and accuracy, weighted by the bins' pixels; 0 without pixels."""
        return float(calibration_error(self.sums()))


def calibration_error(sums: np.ndarray) -> np.ndarray:
    """Return the ECE of the sums of `CalibrationError`, `[..., 3, bins]` to `[...]`; 0 without pixels."""
    count, confidence, correct = np.moveaxis(sums, -2, 0)
    error: np.ndarray = np.abs(confidence - correct).sum(-1) / np.maximum(count.sum(-1), 1)
    return error


def _boundary(label: np.ndarray, void: np.ndarray) -> np.ndarray:
    """Return pixels with a 4-neighbour of another class, bool `[H, W]`; image edge and void are no boundary."""
    edge = np.zeros(label.shape, bool)
    for here, there in (((slice(1, None),), (slice(None, -1),)), ((..., slice(1, None)), (..., slice(None, -1)))):
        differs = label[here] != label[there]
        edge[here] |= differs & ~void[there]
        edge[there] |= differs & ~void[here]
    return edge & ~void


def class_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is not NaN, `[..., C]` to `[...]`; 0 where all is."""
    known = np.isfinite(values)
    mean: np.ndarray = np.where(known, values, 0.0).sum(-1) / np.maximum(known.sum(-1), 1)
    return mean
