"""How often each class occurs in a split: what class weights are computed from."""

from __future__ import annotations

from collections.abc import Iterable
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

        def count(path: Path) -> np.ndarray:
            return np.bincount(read_label(path).ravel(), minlength=256)[:classes]

        with ThreadPoolExecutor(available_cores()) as pool:
            return cls.of(pool.map(count, [sample.label for sample in samples(root, split)]), classes)
