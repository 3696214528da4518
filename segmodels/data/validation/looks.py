"""What an image and its label look like, as small numbers that whole datasets can be compared by.

Fingerprint: the signs of the 16 x 16 lowest frequencies of the grey image (DCT), as pHash has it (Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), but with the sign in place of the median:
the mirror image then has the same bits but for those of odd horizontal frequencies. Measured on CamVid and `streets`:
what was encoded again (JPEG, quality 50), resized to half, mirrored, made a tenth brighter or cropped by 2 % differs in
at most 27 of 256 bits, a picture of another split in at least 61.

Edge fit: how much better the borders of a label fit the edges of its image than they do when they are moved aside. What
is right lies at 3, a label of another image at 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image

BITS = 16  # lowest frequencies a side
_THUMB = 32
# Shorter side of the grey image that everything is measured on, about.
_SIDE = 160
# Grey levels that an image varies by, and frequencies that stand out of its noise; less has no fingerprint.
_LEAST_CONTRAST, _LEAST_AMPLITUDE, _LEAST_FREQUENCIES = 4.0, 0.1, 64
# Steps that borders are moved by, in pixels of the grey image.
_ASIDE = tuple(
    (dy * step, dx * step) for step in (8, 12, 16) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if (dy, dx) != (0, 0)
)
_MARGIN = 16
# Pixels of borders, and grey levels of the steepest tenth of the image's edges; less tells nothing.
_LEAST_BORDER, _LEAST_EDGE = 200, 8
# Pixels of borders that are looked at.
_MOST_BORDER = 1500
# Share of a label that a class has at least, to say where it lies.
_LEAST_SHARE = 0.01
NOWHERE = 255

_COSINES = np.cos(np.pi * np.arange(BITS)[:, None] * (2 * np.arange(_THUMB) + 1) / (2 * _THUMB)).astype(np.float32)


def mirror_mask() -> np.ndarray:
    """Return the bits of a fingerprint that differ in that of the mirror image, uint8 `[32]`."""
    odd = np.tile(np.arange(BITS) % 2 == 1, (BITS, 1))
    return np.packbits(odd)


@dataclass(frozen=True)
class ImageLooks:
    """What is kept of an image until its label is read.

    Attributes:
        grey: The image in grey, its shorter side about 160 pixels, uint8 `[h, w]`.
        height: Of the image.
        width: Of the image.
    """

    grey: np.ndarray
    height: int
    width: int

    @classmethod
    def of(cls, pixels: np.ndarray) -> ImageLooks:
        """Return the looks of RGB pixels, uint8 `[H, W, 3]`."""
        height, width = pixels.shape[:2]
        # A large image is thinned before it is averaged: no copy of it is made.
        thin = max(1, min(height, width) // _SIDE // 4)
        grey = Image.fromarray(np.ascontiguousarray(pixels[::thin, ::thin])).convert("L")
        factor = max(1, round(min(grey.size) / _SIDE))
        if factor > 1:
            grey = grey.reduce(factor)
        return cls(np.asarray(grey), height, width)

    @property
    def brightness(self) -> float:
        """The mean of its grey levels, 0..255."""
        return float(self.grey.mean())

    def fingerprint(self) -> str | None:
        """Return 256 bits in hexadecimal that like images share; None where it shows too little to have any."""
        small = Image.fromarray(self.grey).resize((_THUMB, _THUMB), Image.Resampling.BOX)
        thumb = np.asarray(small, np.float32)
        waves = _COSINES @ thumb @ _COSINES.T
        strong = np.count_nonzero(np.abs(waves) > _LEAST_AMPLITUDE * _THUMB * _THUMB / 4)
        if thumb.std() < _LEAST_CONTRAST or strong < _LEAST_FREQUENCIES:
            return None
        waves[0, 0] = 0  # the brightness
        return np.packbits(waves > 0).tobytes().hex()

    def edge_fit(self, label: np.ndarray) -> float | None:
        """Return how well the borders of a label fit the edges, in deviations; None where there are too few.

        Args:
            label: Class ids of the image's size, uint8 `[H, W]`.
        """
        if label.shape != (self.height, self.width):
            return None
        found = self._edges()
        if found is None:
            return None
        edges, ranks = found
        small = thinned(label, self.grey.shape)
        corner, right, below = small[:-1, :-1], small[:-1, 1:], small[1:, :-1]
        border = (corner != right) | (corner != below)
        border &= (corner != 255) & (right != 255) & (below != 255)
        height, width = border.shape
        if min(height, width) <= 2 * _MARGIN:
            return None
        at = np.flatnonzero(border[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN])
        if len(at) < _LEAST_BORDER:
            return None
        at = at[:: 1 + len(at) // _MOST_BORDER]
        row, column = np.divmod(at, width - 2 * _MARGIN)
        here = (row + _MARGIN) * width + column + _MARGIN
        moved = np.array([0, *(dy * width + dx for dy, dx in _ASIDE)])
        means = ranks[edges.ravel()[here + moved[:, None]]].mean(1)
        return float((means[0] - means[1:].mean()) / (means[1:].std() + 0.01))

    def _edges(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Return the steepest step within a pixel, and the rank of each step, 0..1; None where nothing stands out."""
        corner, right, below = self.grey[:-1, :-1], self.grey[:-1, 1:], self.grey[1:, :-1]
        if not corner.size:
            return None
        across = np.maximum(corner, right) - np.minimum(corner, right)
        steps = np.maximum(across, np.maximum(corner, below) - np.minimum(corner, below))
        counts = levels(steps)
        below_or_at = np.cumsum(counts)
        if np.searchsorted(below_or_at, 0.9 * steps.size) < _LEAST_EDGE:
            return None
        wide = steps.copy()
        np.maximum(wide[1:], steps[:-1], out=wide[1:])
        np.maximum(wide[:-1], steps[1:], out=wide[:-1])
        near = wide.copy()
        np.maximum(near[:, 1:], wide[:, :-1], out=near[:, 1:])
        np.maximum(near[:, :-1], wide[:, 1:], out=near[:, :-1])
        return near, ((below_or_at - counts / 2) / steps.size).astype(np.float32)


def levels(values: np.ndarray) -> np.ndarray:
    """Return how often each of 0..255 occurs, int64 `[256]`; without the eight bytes a pixel that `bincount` takes."""
    return np.array(Image.fromarray(values).histogram(), np.int64)


def thinned(label: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Return the labels at the centres of a coarser grid, uint8 `[h, w]`."""
    rows, columns = (
        ((np.arange(small) + 0.5) * large / small).astype(np.intp)
        for small, large in zip(size, label.shape, strict=True)
    )
    picked: np.ndarray = label[rows][:, columns]
    return picked


def salt(label: np.ndarray) -> float:
    """Return the share of pixels whose class none of their eight neighbours has."""
    height, width = label.shape
    if min(height, width) < 3:
        return 0.0
    # In one long line of pixels, where the next row lies `width` further on; the sides of the image are left out below.
    line = np.ascontiguousarray(label).ravel()
    after, under = line[1:] != line[:-1], line[width:] != line[:-width]
    alone = after[width - 1 : -width] & after[width : 1 - width or None]
    alone &= under[:-width]
    alone &= under[width:]
    row, column = np.divmod(np.flatnonzero(alone) + width, width)
    inner = (column > 0) & (column < width - 1)
    row, column = row[inner], column[inner]
    # Lines of one pixel that run aslant are none; few pixels are left to be asked for it.
    left = np.ones(len(row), bool)
    for dy in (-1, 1):
        for dx in (-1, 1):
            left &= label[row + dy, column + dx] != label[row, column]
    return float(np.count_nonzero(left)) / label.size


def heights(label: np.ndarray, classes: int) -> str:
    """Return where each class lies, 0 (top) to 254 (bottom), a byte in hexadecimal; 255 where it hardly occurs."""
    small = thinned(label, (min(label.shape[0], 64), min(label.shape[1], 64)))
    counts = np.bincount(small.ravel(), minlength=256)[:classes]
    rows = np.repeat(np.arange(small.shape[0], dtype=np.float32), small.shape[1])
    sums = np.bincount(small.ravel(), rows, minlength=256)[:classes]
    places = np.rint(254 * sums / np.maximum(counts, 1) / max(1, small.shape[0] - 1))
    places[counts < max(20, _LEAST_SHARE * small.size)] = NOWHERE
    return places.astype(np.uint8).tobytes().hex()


def grey_rows(pixels: np.ndarray) -> int:
    """Return how many rows at the bottom of an image are one even middle grey: what JPEG shows for what is missing."""
    height = pixels.shape[0]
    reach = 1
    rows = 0
    while rows < height:
        block = pixels[max(0, height - rows - reach) : height - rows]
        grey = np.asarray(((block >= 127) & (block <= 129)).all(axis=(1, 2)))
        even = grey[::-1]
        if not even.all():
            return rows + int(np.argmin(even))
        rows += len(block)
        reach *= 2
    return rows
