"""How often each class occurs in a split: what class weights are computed from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np

from segmodels.data.folder import read_label, samples
from segmodels.runtime import available_cores


@dataclass(frozen=True)
class ClassCounts:
    """Pixels of each class, void left out.

    Attributes:
        pixels: Of each class over the split, `[C]`.
        in_images: Labelled pixels of all images in which the class occurs, `[C]`.
    """

    pixels: tuple[int, ...]
    in_images: tuple[int, ...]

    @classmethod
    def of(cls, rows: Iterable[np.ndarray], classes: int) -> Self:
        """Sum the pixels of each class of single images, int64 `[C]` each."""
        pixels, in_images = np.zeros(classes, np.int64), np.zeros(classes, np.int64)
        for row in rows:
            pixels += row
            in_images[row > 0] += row.sum()
        return cls(tuple(pixels.tolist()), tuple(in_images.tolist()))

    @classmethod
    def read(cls, root: Path | str, split: str, classes: int) -> Self:
        """Count the labels of a split, at their own size.

        Raises:
            DatasetError: A label is unreadable.
        """

        return cls.of(_counts(root, split, classes), classes)


def repeat_factors(root: Path | str, split: str, classes: int, share: float) -> np.ndarray:
    """Return how often each image of a split is wanted, so that rare classes are seen more often, float64 `[N]`.

    The largest of sqrt(share / f) over the image's classes, and at least 1, where a class occurs in the share f of the
    images (Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation", CVPR 2019, 4.2).

    Args:
        root: Dataset folder.
        split: The split.
        classes: Number of classes.
        share: Below which a class is rare, 0..1.

    Raises:
        DatasetError: A label is unreadable.
    """
    there = np.stack(list(_counts(root, split, classes))) > 0
    frequency = there.mean(0)
    factors = np.sqrt(np.divide(share, frequency, out=np.ones(classes), where=frequency > 0))
    often: np.ndarray = np.where(there, np.maximum(factors, 1.0), 1.0).max(1)
    return often


def _counts(root: Path | str, split: str, classes: int) -> Iterator[np.ndarray]:
    """Yield the pixels of each class of single images, int64 `[C]`, in the order of their ids."""

    def count(path: Path) -> np.ndarray:
        return np.bincount(read_label(path).ravel(), minlength=256)[:classes]

    with ThreadPoolExecutor(available_cores()) as pool:
        yield from pool.map(count, [sample.label for sample in samples(root, split)])
