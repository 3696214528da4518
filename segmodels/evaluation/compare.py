"""Is the difference between two models more than noise? A paired bootstrap over the test images.

Images are drawn with replacement, the counts of both models are summed over the same draw, and the figures' differences
over many draws give an interval (Efron and Tibshirani, An Introduction to the Bootstrap, 1993, section 13.3; paired, as
Koehn, EMNLP 2004, has it for test sets). What varies is the choice of test images; that another training with another
seed would vary, too, is not in it.

Two things make a difference look surer than it is, and are taken into account. Frames of one video resemble each other:
whole sequences are drawn, and where there are few of them blocks of neighbouring frames (Künsch, "The jackknife and the
bootstrap for general stationary observations", Annals of Statistics 17, 1989). And the best of many models is better
than it will be again: the interval of the main figure holds for all models that are compared at once, by the largest
studentised difference of each draw (max-T; Westfall and Young, Resampling-Based Multiple Testing, 1993, section 2.3).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from segmodels.tasks import task_info
from segmodels.tasks.per_image import PerImage

# Units below which sequences are cut into blocks.
FEWEST_UNITS = 20
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
    """Two models on the same images.

    Attributes:
        images: How many.
        units: What was drawn: images, or sequences of them, or blocks of these.
        arms: Models that were compared with the same one at once; the interval of the main figure holds for all.
        figures: Key of a figure of the task, those of its parts too (`iou/sky`) -> the difference.
    """

    images: int
    units: int
    arms: int
    figures: dict[str, Difference]


def compare(
    new: PerImage, old: PerImage, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> Comparison:
    """Compare two models image by image; see `compare_all`."""
    return compare_all([new], old, resamples=resamples, confidence=confidence, seed=seed)[0]


def compare_all(
    new: Sequence[PerImage], old: PerImage, *, resamples: int = 2000, confidence: float = 0.95, seed: int = 0
) -> list[Comparison]:
    """Compare several models with one, all on the same draws.

    Args:
        new: Counts of each model.
        old: Counts of the one that they are compared with, on the same images and classes.
        resamples: Number of draws.
        confidence: Of the intervals, in 0..1; of the main figure for all models together, of others for each by itself.
        seed: Of the draws; the same seed gives the same intervals.

    Raises:
        ValueError: Images, classes or tasks differ.
    """
    for each in new:
        same = each.ids.tolist() == old.ids.tolist() and each.classes.tolist() == old.classes.tolist()
        if not same or each.task != old.task:
            raise ValueError("two models are compared on the same images and the same classes")
    if not new:
        return []
    unit = units(new[0].sequences)
    images, count = len(unit), int(unit.max()) + 1
    whole = np.ones((1, images))
    names = list(old.figures(whole))
    main = names.index(task_info(old.task).main.key)
    before = _columns(old, whole)[0]
    after = [_columns(each, whole)[0] for each in new]
    rng = np.random.default_rng(seed)
    draws: list[list[np.ndarray]] = [[] for _ in new]
    for start in range(0, resamples, CHUNK):
        drawn = rng.multinomial(count, np.full(count, 1 / count), size=min(CHUNK, resamples - start))
        weights = drawn[:, unit].astype(np.float64)
        base = _columns(old, weights)
        for kept, each in zip(draws, new, strict=True):
            kept.append(_columns(each, weights) - base)
    joined = [np.concatenate(kept) for kept in draws]
    points = np.array([one[main] - before[main] for one in after])
    together = _simultaneous(points, np.stack([one[:, main] for one in joined], axis=1), count, confidence)
    enough = count >= fewest_images(confidence)
    comparisons = []
    for arm, (one, differences) in enumerate(zip(after, joined, strict=True)):
        low, high = _interval(differences, confidence)
        low[main], high[main] = together[0][arm], together[1][arm]
        figures = [
            Difference(float(a), float(b), float(lo), float(hi), bool(enough and (lo > 0 or hi < 0)))
            for a, b, lo, hi in zip(one, before, low, high, strict=True)
        ]
        comparisons.append(Comparison(images, count, len(new), dict(zip(names, figures, strict=True))))
    return comparisons


def _columns(counts: PerImage, weights: np.ndarray) -> np.ndarray:
    """Return every figure of draws, `[B, F]`."""
    return np.column_stack(list(counts.figures(weights).values()))


def units(sequences: np.ndarray) -> np.ndarray:
    """Return the number, from 0, of the unit that each image is drawn with.

    Args:
        sequences: Name of the sequence of each image, `[N]`; empty where an image stands alone.

    Returns:
        int64 `[N]`: an image alone is a unit, and so is a sequence; where these are fewer than `FEWEST_UNITS`, blocks
        of neighbouring frames of a sequence are, all about as long.
    """
    members: dict[tuple[str, int], list[int]] = {}
    for index, name in enumerate(sequences.tolist()):
        members.setdefault((name, -1 if name else index), []).append(index)
    longest = max(1, len(sequences) // FEWEST_UNITS) if len(members) < FEWEST_UNITS else len(sequences)
    unit, number = np.zeros(len(sequences), np.int64), 0
    for frames in members.values():
        for block in np.array_split(frames, math.ceil(len(frames) / longest)):
            unit[block] = number
            number += 1
    return unit


def fewest_images(confidence: float) -> int:
    """Return images, or other units, from which on a difference can be more than chance.

    With fewer even images that all agree are no surprise: a sign test would not reject (0.95: six).
    """
    return math.ceil(math.log2(2 / (1 - confidence)))


def _simultaneous(
    points: np.ndarray, draws: np.ndarray, count: int, confidence: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return intervals that hold for all models at once.

    Args:
        points: The difference of each model, `[K]`.
        draws: The same of each draw, `[B, K]`.
        count: Units that were drawn.
        confidence: In 0..1.
    """
    spread = np.nanstd(draws, axis=0, ddof=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        studentised = np.abs(draws - points) / spread
    largest = np.nan_to_num(studentised, nan=0.0, posinf=0.0).max(axis=1)
    critical = float(np.quantile(largest, confidence))
    if count > 1:
        # Of few units the spread itself is uncertain, as Student's distribution has it, and n - 1 of them are free.
        critical = float(stats.t.isf(stats.norm.sf(critical), count - 1)) * math.sqrt(count / (count - 1))
    return points - critical * spread, points + critical * spread


def _interval(differences: np.ndarray, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Return percentile interval of each column; NaN where a figure never exists."""
    tail = (1 - confidence) / 2
    ends = np.full((2, differences.shape[1]), np.nan)
    for i, column in enumerate(differences.T):
        known = column[np.isfinite(column)]
        if len(known):
            ends[:, i] = np.quantile(known, [tail, 1 - tail])
    return ends[0], ends[1]
