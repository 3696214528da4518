"""Images against a profile, number by number.

The Kolmogorov-Smirnov distance for one number, the Jensen-Shannon divergence for colours and for the predicted class
mix. How large a distance chance alone gives, with as many images, is found by drawing such samples from the reference
itself, all numbers together, so that the chance of any false alarm is the one that was asked for (Westfall and Young's
min-P).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from segmodels.drift.profile import COLORS, INPUT_FEATURES, DriftError, Profile, Seen

ALPHA = 0.01
# The population stability index from which practice speaks of a moderate and of a large shift.
MODERATE, LARGE = 0.1, 0.25
# Fewer images than these say little, whatever the distance.
LEAST = 10


@dataclass(frozen=True)
class Finding:
    """One number compared.

    Attributes:
        name: A feature of `INPUT_FEATURES`, `colours`, or what the task watches: `class mix`, `confidence`.
        distance: Kolmogorov-Smirnov, or Jensen-Shannon divergence in bits; 0..1.
        threshold: The distance that samples of this size from the reference exceed in `alpha` of all draws.
        p: Chance of any such distance among all numbers where there is no drift.
        psi: Population stability index, less what chance adds to it.
        shift: Difference of the means, in standard deviations of the reference; NaN for distributions.
        reference: Mean in the reference; NaN for distributions.
        mean: Mean in these images; NaN for distributions.
        drifted: Whether p is at most alpha.
    """

    name: str
    distance: float
    threshold: float
    p: float
    psi: float
    shift: float
    reference: float
    mean: float
    drifted: bool

    @property
    def size(self) -> str:
        """In words how much it moved, by its PSI."""
        if not self.drifted:
            return "as before"
        return "large" if self.psi >= LARGE else "moderate" if self.psi >= MODERATE else "slight"


@dataclass(frozen=True)
class Drift:
    """The comparison of images with a profile.

    Attributes:
        images: How many were compared.
        alpha: The chance of a false alarm that was asked for.
        findings: All numbers, those that moved first, of these the inputs that moved most.
        mix: Predicted class mix, class -> (in the reference, here).
    """

    images: int
    alpha: float
    findings: tuple[Finding, ...]
    mix: Mapping[str, tuple[float, float]]

    @property
    def drifted(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.drifted)

    @property
    def verdict(self) -> str:
        """The result as a sentence."""
        if self.images < LEAST:
            return f"too few images to say: {self.images}, and {LEAST} are the least"
        if not self.drifted:
            return f"no drift: {self.images} images are like the reference"
        named = [_in_words(finding) for finding in self.drifted]
        shown = ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")
        return f"drift: {shown}"


def compare(
    profile: Profile, seen: Sequence[Seen], *, alpha: float = ALPHA, resamples: int = 1000, seed: int = 0
) -> Drift:
    """Compare images with a profile.

    Args:
        profile: The reference.
        seen: Of each image, from `see`; where one has no prediction, predictions are not compared, and where one has
            no confidence, that is not.
        alpha: The chance of a false alarm over all numbers together, 0..1.
        resamples: How many samples are drawn from the reference; the result is cached by their size.
        seed: Of these draws.

    Raises:
        DriftError: There are no images.
    """
    if not seen:
        raise DriftError("no image could be read; there is nothing to compare")
    sample = _sample(seen)
    shares, number = profile.watched
    names = [*INPUT_FEATURES, COLORS, *([shares] if sample.mix is not None else [])]
    names += [number] if sample.confidence is not None and np.isfinite(profile.confidence).all() else []
    wanted = [i for i, name in enumerate((*INPUT_FEATURES, COLORS, shares, number)) if name in names]
    null = _null(_Key(profile), len(seen), resamples, seed)[:, wanted]
    observed = np.array([_distance(profile, sample, name) for name in names])
    p, thresholds = _family(null, observed, alpha)
    enough = len(seen) >= LEAST
    findings = [
        _finding(profile, sample, name, observed[i], thresholds[i], p[i], drifted=enough and bool(p[i] <= alpha))
        for i, name in enumerate(names)
    ]
    findings.sort(key=lambda finding: _order(finding, number))
    mix: dict[str, tuple[float, float]] = {}
    if sample.mix is not None:
        before, now = profile.mix.mean(0), sample.mix.mean(0)
        mix = {name: (float(before[i]), float(now[i])) for i, name in enumerate(profile.classes)}
    return Drift(len(seen), alpha, tuple(findings), mix)


@dataclass(frozen=True)
class _Sample:
    inputs: np.ndarray
    colors: np.ndarray
    mix: np.ndarray | None
    confidence: np.ndarray | None


class _Key:
    """A profile as the key of a cache: by identity, since arrays cannot be hashed."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile

    def __hash__(self) -> int:
        return id(self.profile)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Key) and other.profile is self.profile


def _sample(seen: Sequence[Seen]) -> _Sample:
    mixes = [one.mix for one in seen if one.mix is not None]
    sure = [one.confidence for one in seen if one.confidence is not None]
    return _Sample(
        np.stack([one.inputs for one in seen]),
        np.stack([one.colors for one in seen]),
        np.stack(mixes) if len(mixes) == len(seen) else None,
        np.array(sure) if len(sure) == len(seen) else None,
    )


def _distance(profile: Profile, sample: _Sample, name: str) -> float:
    if name == COLORS:
        return _jensen_shannon(profile.colors.mean(0), sample.colors.mean(0))
    if name == profile.watched[0]:
        assert sample.mix is not None
        return _jensen_shannon(profile.mix.mean(0), sample.mix.mean(0))
    before, now = _numbers(profile, sample, name)
    return _kolmogorov_smirnov(before, now)


def _numbers(profile: Profile, sample: _Sample, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == profile.watched[1]:
        assert sample.confidence is not None
        return profile.confidence, sample.confidence
    column = INPUT_FEATURES.index(name)
    return profile.inputs[:, column], sample.inputs[:, column]


@functools.lru_cache(maxsize=64)
def _null(key: _Key, size: int, resamples: int, seed: int) -> np.ndarray:
    """Return distances `[resamples, features]` between samples that are both drawn from the reference.

    One has as many images as the reference, the other as many as are compared: what is compared was drawn from the
    same source as the reference itself was, and both are subject to chance.
    """
    profile, rng = key.profile, np.random.default_rng(seed)
    count, evaluated = len(profile.inputs), len(profile.mix)
    ranks = [_ranks(column) for column in (*profile.inputs.T, profile.confidence)]
    null = np.empty((resamples, len(INPUT_FEATURES) + 3))
    for row in null:
        one, two = rng.integers(count, size=count), rng.integers(count, size=size)
        three, four = rng.integers(evaluated, size=evaluated), rng.integers(evaluated, size=size)
        for i in range(len(INPUT_FEATURES)):
            row[i] = _of_ranks(ranks[i], one, two)
        row[-3] = _jensen_shannon(profile.colors[one].mean(0), profile.colors[two].mean(0))
        row[-2] = _jensen_shannon(profile.mix[three].mean(0), profile.mix[four].mean(0))
        row[-1] = _of_ranks(ranks[-1], three, four)
    return null


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each value's place among the distinct ones: distances need their order alone."""
    return np.unique(values, return_inverse=True)[1]


def _of_ranks(ranks: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples, without sorting."""
    kinds = int(ranks.max()) + 1
    first = np.bincount(ranks[one], minlength=kinds).cumsum() / len(one)
    second = np.bincount(ranks[two], minlength=kinds).cumsum() / len(two)
    return float(np.abs(first - second).max())


def _kolmogorov_smirnov(before: np.ndarray, now: np.ndarray) -> float:
    """Return the largest distance of two empirical distribution functions."""
    before, now = np.sort(before), np.sort(now)
    places = np.concatenate([before, now])
    first = np.searchsorted(before, places, side="right") / len(before)
    second = np.searchsorted(now, places, side="right") / len(now)
    return float(np.abs(first - second).max())


def _jensen_shannon(first: np.ndarray, second: np.ndarray) -> float:
    """Jensen-Shannon divergence of two distributions in bits, 0..1."""
    first, second = first / first.sum(), second / second.sum()
    middle = (first + second) / 2
    return max(0.0, _entropy(middle) - (_entropy(first) + _entropy(second)) / 2)


def _entropy(shares: np.ndarray) -> float:
    held = shares[shares > 0]
    return float(-(held * np.log2(held)).sum())


def _family(null: np.ndarray, observed: np.ndarray, alpha: float) -> tuple[np.ndarray, np.ndarray]:
    """P-values that hold for all numbers together `[F]`, and the distance of each that gives `alpha` `[F]`."""
    draws = len(null)
    order = np.sort(null, axis=0)
    # How many draws are at least as large, the draw itself among them.
    own = draws - np.stack([np.searchsorted(order[:, i], null[:, i], "left") for i in range(null.shape[1])], axis=1)
    least = np.sort((own / draws).min(1))
    single = 1 + draws - np.array([np.searchsorted(order[:, i], v, "left") for i, v in enumerate(observed)])
    p = (1 + np.searchsorted(least, single / (draws + 1), side="right")) / (draws + 1)
    level = least[max(0, math.ceil(alpha * draws) - 1)]
    place = min(draws - 1, max(0, draws - math.floor(level * draws)))
    return p, order[place]


def _finding(
    profile: Profile, sample: _Sample, name: str, distance: float, threshold: float, p: float, *, drifted: bool
) -> Finding:
    shift = reference = mean = math.nan
    if name in (COLORS, profile.watched[0]):
        before, now = (profile.colors, sample.colors) if name == COLORS else (profile.mix, sample.mix)
        assert now is not None
        psi = _psi(before.mean(0) / before.mean(0).sum(), now.mean(0) / now.mean(0).sum())
    else:
        before, now = _numbers(profile, sample, name)
        reference, mean = float(before.mean()), float(now.mean())
        shift = (mean - reference) / max(float(before.std()), float(_least(np.array(reference))))
        psi = _psi(*_in_tenths(before, now), (len(before), len(now)))
    return Finding(name, float(distance), float(threshold), float(p), psi, shift, reference, mean, drifted)


def _in_tenths(before: np.ndarray, now: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return shares of both in bins that hold a tenth of the reference each."""
    edges = np.unique(np.quantile(before, np.linspace(0.1, 0.9, 9)))
    # A reference of one value has a bin of its own for it, with what lies below and above on either side.
    if before.min() == before.max():
        edges = np.array([before[0] - _least(before[0]), before[0] + _least(before[0])])
    bins = len(edges) + 1
    first, second = (np.bincount(np.searchsorted(edges, v), minlength=bins) for v in (before, now))
    return first / len(before), second / len(now)


def _psi(before: np.ndarray, now: np.ndarray, counts: tuple[int, int] | None = None) -> float:
    """Return the population stability index of two distributions, less what chance adds to it; at least 0.

    Args:
        before: Shares in the reference.
        now: Shares here.
        counts: How many numbers each was counted from; None for shares of pixels, which are no independent draws.
    """
    # Half a count for an empty bin, whose logarithm would be infinite.
    least = (1e-4, 1e-4) if counts is None else (0.5 / counts[0], 0.5 / counts[1])
    first, second = np.maximum(before, least[0]), np.maximum(now, least[1])
    chance = 0.0 if counts is None else (len(before) - 1) * (1 / counts[0] + 1 / counts[1])
    return max(0.0, float(((second - first) * np.log(second / first)).sum()) - chance)


def _least(mean: np.ndarray) -> np.ndarray:
    """Return the standard deviation below which numbers count as all the same."""
    return np.asarray(1e-3 + 1e-3 * np.abs(mean))


def _order(finding: Finding, number: str) -> tuple[bool, bool, float]:
    """Return what drifted first; of these single numbers, the most moved first, since distributions name no cause."""
    is_number = math.isfinite(finding.shift)
    cause = is_number and finding.name != number
    return not finding.drifted, not cause, -abs(finding.shift) if is_number else -finding.psi


def _in_words(finding: Finding) -> str:
    if not math.isfinite(finding.shift):
        return f"{finding.name} changed ({finding.size})"
    return f"{finding.name} {'higher' if finding.shift > 0 else 'lower'} ({finding.size})"
