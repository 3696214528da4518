"""Sizes of images, from their headers alone, and the crop that lets images of several sizes train together."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from segmodels.data.bands import PLAIN, Bands

# Sides of a crop that is chosen: networks halve a side five times, and whole photos would not fit into memory.
MULTIPLE, LARGEST = 32, 1024
Size = tuple[int, int]


def image_sizes(paths: Iterable[Path], bands: Bands = PLAIN) -> Counter[Size]:
    """Return how many images have each size, (height, width), as they are read: turned upright.

    Raises:
        DatasetError: A file is no image.
    """
    sizes: Counter[Size] = Counter()
    for path in paths:
        sizes[bands.size(path)] += 1
    return sizes


def training_crop(sizes: Counter[Size]) -> Size | None:
    """Return the crop for images of several sizes; None where they have one.

    Its sides are those of the median image, in multiples of 32 and at most 1024: half of the images fill it, and what
    is smaller is padded with ignored pixels.
    """
    if len(sizes) < 2:
        return None
    return _side([height for height, _ in sizes.elements()]), _side([width for _, width in sizes.elements()])


def described(sizes: Counter[Size]) -> str:
    """`3 sizes, 48x64 to 96x128`, height x width."""
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    (top, left), (bottom, right) = ordered[0], ordered[-1]
    return f"{len(ordered)} sizes, {top}x{left} to {bottom}x{right}"


def _side(lengths: list[int]) -> int:
    median = sorted(lengths)[(len(lengths) - 1) // 2]
    return min(LARGEST, max(MULTIPLE, median // MULTIPLE * MULTIPLE))
