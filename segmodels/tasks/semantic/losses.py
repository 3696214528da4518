"""Losses for dense labels: every one ignores 255, takes class weights and is zero on a batch that is all void.

A criterion maps logits `[N, C, H, W]` and target `[N, H, W]` (int64) to a scalar. `build` makes the weighted sum that
the training settings name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from segmodels.data.frequencies import ClassCounts
from segmodels.tasks.criteria import WeightedSum

IGNORE_INDEX = 255
Reduction = Literal["mean", "sum", "batch"]


class CrossEntropy(nn.Module):
    """Pixel-wise cross-entropy.

    Args:
        weight: Weight of each class `[C]`; the mean divides by the sum of the weights of the pixels that count.
        label_smoothing: In 0..1, the mass spread evenly over all classes.
        gamma: Focal loss's exponent (Lin et al., ICCV 2017, equation 4); 0 is plain cross-entropy.
        ohem: Keeps pixels whose true class has less than 0.7 probability, but at least this fraction of the pixels
            (online hard example mining as in BiSeNet); 0 keeps all.
        reduction: `mean` over the pixels that count, `sum`, or `batch`: the sum over the number of images, which is
            Caffe's `normalize: false`.
    """

    weight: Tensor | None

    def __init__(
        self,
        weight: Tensor | None = None,
        *,
        label_smoothing: float = 0.0,
        gamma: float = 0.0,
        ohem: float = 0.0,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__()
        self.register_buffer("weight", weight, persistent=False)
        self.label_smoothing, self.gamma, self.ohem, self.reduction = label_smoothing, gamma, ohem, reduction

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        logits = _at_least_float32(logits)
        weight = None if self.weight is None else self.weight.to(logits.dtype)
        pixel = F.cross_entropy(
            logits,
            target,
            weight=weight,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=self.label_smoothing,
        )
        valid = target != IGNORE_INDEX
        if self.gamma > 0:
            plain = F.cross_entropy(logits, target, ignore_index=IGNORE_INDEX, reduction="none")
            pixel = pixel * (1 - torch.exp(-plain)) ** self.gamma
        if self.ohem > 0:
            valid = valid & _hard(logits, target, valid, self.ohem)
            pixel = pixel * valid
        if self.reduction == "sum":
            return pixel.sum()
        if self.reduction == "batch":
            return pixel.sum() / len(logits)
        if weight is None:
            return pixel.sum() / valid.sum().clamp(min=1)
        share = torch.where(valid, weight[target.where(valid, torch.zeros_like(target))], 0.0)
        return pixel.sum() / share.sum().clamp(min=1e-6)


class Dice(nn.Module):
    """One minus the mean soft Dice coefficient of the classes that occur in the batch (Milletari et al., 3DV 2016)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        probs = _at_least_float32(logits).softmax(1)
        valid = (target != IGNORE_INDEX)[:, None]
        truth = _one_hot(target, logits.shape[1])
        probs = probs * valid
        overlap = (probs * truth).sum((0, 2, 3))
        total = probs.sum((0, 2, 3)) + truth.sum((0, 2, 3))
        present = truth.sum((0, 2, 3)) > 0
        dice = (2 * overlap / total.clamp(min=1e-6))[present]
        return (1 - dice).mean() if present.any() else probs.sum() * 0


class LovaszSoftmax(nn.Module):
    """The Lovász extension of the Jaccard loss, averaged over the batch's classes (Berman et al., CVPR 2018)."""

    def forward(self, logits: Tensor, target: Tensor) -> Tensor:
        classes = logits.shape[1]
        probs = _at_least_float32(logits).softmax(1).permute(0, 2, 3, 1).reshape(-1, classes)
        labels = target.reshape(-1)
        valid = labels != IGNORE_INDEX
        probs, labels = probs[valid], labels[valid]
        losses = []
        for c in labels.unique():
            truth = (labels == c).to(probs.dtype)
            errors, order = (truth - probs[:, c]).abs().sort(descending=True)
            losses.append(torch.dot(errors, _jaccard_gradient(truth[order])))
        return torch.stack(losses).mean() if losses else logits.sum() * 0


class OnLabels(nn.Module):
    """A criterion of logits and class ids, on the `labels` of a sample's targets."""

    def __init__(self, criterion: nn.Module) -> None:
        super().__init__()
        self.criterion = criterion

    def forward(self, logits: Tensor, targets: Mapping[str, Tensor]) -> Tensor:
        loss: Tensor = self.criterion(logits, targets["labels"])
        return loss


def build(
    terms: Mapping[Any, float],
    *,
    class_weight: Tensor | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> nn.Module:
    """Return the criterion for `{"cross_entropy": 1.0, "lovasz": 0.5}` and the like.

    Raises:
        ValueError: A term's name is unknown.
    """
    made: dict[str, tuple[float, nn.Module]] = {}
    for name, weight in terms.items():
        if name == "cross_entropy":
            term: nn.Module = CrossEntropy(class_weight, label_smoothing=label_smoothing, reduction=reduction)
        elif name == "focal":
            term = CrossEntropy(class_weight, gamma=2.0, reduction=reduction)
        elif name == "ohem":
            term = CrossEntropy(class_weight, ohem=1 / 16, reduction=reduction)
        elif name == "dice":
            term = Dice()
        elif name == "lovasz":
            term = LovaszSoftmax()
        else:
            raise ValueError(f"loss '{name}' is unknown; known are cross_entropy, dice, focal, lovasz, ohem")
        made[name] = (weight, term)
    return WeightedSum(made)


def class_weights(class_counts: ClassCounts, scheme: str) -> Tensor | None:
    """Return weights against class imbalance.

    Args:
        found: How often each class occurs in the training set.
        scheme: `none`; `median_frequency` (Eigen and Fergus; SegNet, section 4.1): median frequency over the class's
            frequency in the images where it occurs; its square root; `enet`: 1 / ln(1.02 + p), p the class's share
            (ENet, section 4), `enet_encoder` with 1.2 (e-lab/ENet-training, train/models/encoder.lua); `linknet`:
            1 / ln(1.02 + p), p the class's pixels over those of the most frequent class (e-lab/LinkNet,
            models/model.lua).

    Returns:
        float32 `[C]`, or None for `none`. A class that never occurs weighs 1.
    """
    if scheme == "none":
        return None
    counts, images = np.array(class_counts.pixels, np.float64), np.array(class_counts.in_images, np.float64)
    present = counts > 0
    weights = np.ones(len(counts))
    if scheme in ("enet", "enet_encoder"):
        weights[present] = 1 / np.log((1.02 if scheme == "enet" else 1.2) + counts[present] / counts.sum())
    elif scheme == "linknet":
        weights[present] = 1 / np.log(1.02 + counts[present] / counts.max())
    elif scheme in ("median_frequency", "sqrt_median_frequency"):
        frequency = counts[present] / images[present]
        weights[present] = np.median(frequency) / frequency
        if scheme == "sqrt_median_frequency":
            weights = np.sqrt(weights)
    else:
        raise ValueError(f"class weights '{scheme}' are unknown")
    return torch.tensor(weights, dtype=torch.float32)


def border_weights(target: Tensor, *, w0: float, sigma: float) -> Tensor:
    """U-Net's border term (equation 2): w0 * exp(-(d1 + d2)^2 / (2 sigma^2)).

    d1 and d2 are the distances, in pixels, to the nearest and the second nearest connected region of a class other
    than 0; the term counts on pixels of class 0, between the regions, and is zero with fewer than two regions.

    Args:
        target: `[N, H, W]`.
    """
    from scipy import ndimage

    maps = []
    for label in target.cpu().numpy():
        regions: list[np.ndarray] = []
        for value in np.unique(label):
            if value in (0, IGNORE_INDEX):
                continue
            marked, number = ndimage.label(label == value)
            regions += [ndimage.distance_transform_edt(marked != i) for i in range(1, number + 1)]
        if len(regions) < 2:
            maps.append(np.zeros(label.shape, np.float32))
            continue
        nearest = np.partition(np.stack(regions), 1, axis=0)[:2].sum(0)
        maps.append((w0 * np.exp(-(nearest**2) / (2 * sigma**2)) * (label == 0)).astype(np.float32))
    return torch.from_numpy(np.stack(maps)).to(target.device)


def _at_least_float32(logits: Tensor) -> Tensor:
    return logits if logits.dtype == torch.float64 else logits.float()


def _hard(logits: Tensor, target: Tensor, valid: Tensor, fraction: float) -> Tensor:
    with torch.no_grad():
        index = target.where(valid, torch.zeros_like(target))[:, None]
        confidence = logits.softmax(1).gather(1, index)[:, 0].masked_fill(~valid, 1.0)
        if not valid.any():
            return valid
        least = max(1, int(valid.sum() * fraction))
        threshold = max(confidence.flatten().kthvalue(least).values.item(), 0.7)
        return confidence <= threshold


def _one_hot(target: Tensor, classes: int) -> Tensor:
    """`[N, C, H, W]`; all zero where the target is ignored."""
    valid = target != IGNORE_INDEX
    index = target.where(valid, torch.zeros_like(target))[:, None]
    shape = (target.shape[0], classes, *target.shape[1:])
    return torch.zeros(shape, device=target.device).scatter_(1, index, valid[:, None].float())


def _jaccard_gradient(truth: Tensor) -> Tensor:
    """Gradient of the Lovász extension with respect to the sorted errors (algorithm 1)."""
    intersection = truth.sum() - truth.cumsum(0)
    union = truth.sum() + (1 - truth).cumsum(0)
    jaccard = 1 - intersection / union
    return torch.cat([jaccard[:1], jaccard[1:] - jaccard[:-1]])
