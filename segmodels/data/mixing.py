"""Samples made of several: regions of one pasted into another, images and all their targets alike.

cutmix      a rectangle of another sample, of a uniformly drawn share of the area (Yun et al., ICCV 2019)
classmix    the pixels of half of another sample's classes (Olsson et al., WACV 2021, section 3.1)
copy_paste  some of another sample's objects: connected regions of a class (Ghiasi et al., CVPR 2021, without blending)
mosaic      four samples around a point near the middle (Bochkovskiy et al., YOLOv4, 2020)

What is mixed is augmented already, so that all have one size. Classes count only where the sample has labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from segmodels.data.folder import IGNORE_INDEX

Sample = Mapping[str, Tensor]
NAMES = ("cutmix", "classmix", "copy_paste", "mosaic")
LARGEST = 0.5  # share of an image above which a region is no object that is pasted
SMALLEST = 1e-4  # and below which it is none worth it
MOST = 5  # objects that are pasted at most
MIDDLE = (0.3, 0.7)  # where the point of a mosaic lies


def mix(sample: Sample, how: Mapping[str, float], another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
    """Return a sample, mixed with others in each of the ways that its chance brings up.

    Args:
        sample: `image`, `[C, H, W]`, and targets, `[..., H, W]`.
        how: Way -> its probability.
        another: Gives a further augmented sample of the same size.
        rng: Where the randomness comes from.

    Raises:
        ValueError: Samples have several sizes.
    """
    for name in NAMES:
        if rng.random() < how.get(name, 0.0):
            sample = _MIXED[name](sample, another, rng)
    return sample


def _pasted(sample: Sample, other: Sample, mask: Tensor) -> Sample:
    """Return a sample whose pixels under the mask, bool `[H, W]`, are another's."""
    if any(sample[name].shape != values.shape for name, values in other.items()):
        raise ValueError("samples that are mixed have several sizes; set train.augment.crop")
    return {name: torch.where(mask, other[name], values) for name, values in sample.items()}


def _cutmix(sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
    other = another()
    height, width = sample["image"].shape[-2:]
    side = rng.random() ** 0.5
    rows, columns = round(height * side), round(width * side)
    top, left = int(rng.integers(height - rows + 1)), int(rng.integers(width - columns + 1))
    mask = torch.zeros(height, width, dtype=torch.bool)
    mask[top : top + rows, left : left + columns] = True
    return _pasted(sample, other, mask)


def _classmix(sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
    other = another()
    labels = other["labels"]
    present = labels[labels != IGNORE_INDEX].unique().numpy()
    chosen = rng.choice(present, (len(present) + 1) // 2, replace=False) if len(present) else present
    return _pasted(sample, other, torch.isin(labels, torch.from_numpy(chosen).to(labels.dtype)))


def _copy_paste(sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
    from scipy import ndimage

    other = another()
    labels = other["labels"].numpy()
    objects: list[tuple[np.ndarray, int]] = []
    for label in np.unique(labels[labels != IGNORE_INDEX]):
        regions, count = ndimage.label(labels == label)
        sizes = np.bincount(regions.ravel(), minlength=count + 1)[1:] / labels.size
        objects += [(regions, int(i) + 1) for i in np.flatnonzero((sizes > SMALLEST) & (sizes < LARGEST))]
    mask = np.zeros(labels.shape, bool)
    if objects:
        count = int(rng.integers(1, min(MOST, len(objects)) + 1))
        for place in rng.choice(len(objects), count, replace=False):
            regions, number = objects[place]
            mask |= regions == number
    return _pasted(sample, other, torch.from_numpy(mask))


def _mosaic(sample: Sample, another: Callable[[], Sample], rng: np.random.Generator) -> Sample:
    height, width = sample["image"].shape[-2:]
    y, x = (round(side * rng.uniform(*MIDDLE)) for side in (height, width))
    rows, columns = torch.arange(height)[:, None] < y, torch.arange(width) < x
    for mask in (rows & ~columns, ~rows & columns, ~rows & ~columns):
        sample = _pasted(sample, another(), mask)
    return sample


_MIXED = {"cutmix": _cutmix, "classmix": _classmix, "copy_paste": _copy_paste, "mosaic": _mosaic}
