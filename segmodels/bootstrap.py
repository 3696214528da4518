"""Is the difference between two models more than noise? A paired bootstrap over the test images.

Images are drawn with replacement, the counts of both models are summed over the same draw, and the figures' differences
over many draws give an interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3; paired, as
Koehn, EMNLP 2004, has it for test sets). What varies is the choice of test images; that another training with another
seed would vary, too, is not in it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from segmodels.per_image import PerImage

CHUNK = 250  # draws at a time: the memory of a thousand images stays at a few MB


@dataclass(frozen=True)
class Difference:
    """One figure of two models.

    Attributes:
        new: Of the first model; NaN where the figure does not exist.
        old: Of the second.
        low: Lower end of the interval of `new - old`.
        high: Upper end.
        significant: The interval excludes 0, and there are enough images that this means something.
    """

    new: float
    old: float
    low: float
    high: float
    significant: bool

    @property
    def value(self) -> float:
        return self.new - self.old


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images; fractions in 0..1.

    Attributes:
        images: How many.
        miou: Mean IoU.
        boundary_f1: Mean boundary F1.
        ece: Expected calibration error; less is better.
        classes: Name -> IoU.
    """

    images: int
    miou: Difference
    boundary_f1: Difference
    ece: Difference
    classes: dict[str, Difference]


def compare(
    new: PerImage, old: PerImage, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compares two models image by image.

    Args:
        new: Counts of a model.
        old: Counts of another on the same images and classes.
        resamples: Number of draws.
        confidence: Of the intervals, in 0..1.
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: Images or classes differ.
    """
    if new.ids.tolist() != old.ids.tolist() or new.classes.tolist() != old.classes.tolist():
        raise ValueError("two models are compared on the same images and the same classes")
    images = len(new.ids)
    whole = np.ones((1, images))
    points = np.stack([new.figures(whole)[0], old.figures(whole)[0]])
    rng = np.random.default_rng(seed)
    draws = []
    for start in range(0, resamples, CHUNK):
        count = min(CHUNK, resamples - start)
        weights = rng.multinomial(images, np.full(images, 1 / images), size=count).astype(np.float64)
        draws.append(new.figures(weights) - old.figures(weights))
    low, high = _interval(np.concatenate(draws), confidence)
    enough = images >= fewest_images(confidence)
    found = [
        Difference(float(a), float(b), float(lo), float(hi), bool(enough and (lo > 0 or hi < 0)))
        for a, b, lo, hi in zip(*points, low, high, strict=True)
    ]
    miou, boundary_f1, ece, *classes = found
    return Comparison(images, miou, boundary_f1, ece, dict(zip(new.classes.tolist(), classes, strict=True)))


def fewest_images(confidence: float) -> int:
    """Images from which on a difference can be more than chance.

    With fewer even images that all agree are no surprise: a sign test would not reject (0.95: six).
    """
    return math.ceil(math.log2(2 / (1 - confidence)))


def _interval(differences: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Percentile interval of each column; NaN where a figure never exists."""
    tail = (1 - confidence) / 2
    ends = np.full((2, differences.shape[1]), np.nan)
    for i, column in enumerate(differences.T):
        known = column[np.isfinite(column)]
        if len(known):
            ends[:, i] = np.quantile(known, [tail, 1 - tail])
    return ends[0], ends[1]
