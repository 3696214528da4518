"""Drift: whether images are still like those a model was trained on, and its predictions like those it was tested on.

A profile keeps a few numbers of each reference image: of training images what describes the picture, of evaluated
images what the model made of them. Other images are compared with it, number by number: the Kolmogorov-Smirnov
distance for one number, the Jensen-Shannon divergence for colours and for the predicted class mix. How large a
distance chance alone gives, with as many images, is found by drawing such samples from the reference itself, all
numbers together, so that the chance of any false alarm is the one that was asked for (Westfall and Young's min-P).
"""

from __future__ import annotations

import functools
import json
import math
import os
import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.dataset import DatasetInfo, read_image, samples

PROFILE_FILE = "profile.json"
FORMAT = 1
# A profile stays small however large the dataset: so many images, spread evenly over it.
REFERENCE_IMAGES = 400
ALPHA = 0.01
# The population stability index from which practice speaks of a moderate and of a large shift.
MODERATE, LARGE = 0.1, 0.25
# Fewer images than these say little, whatever the distance.
LEAST = 10

INPUT_FEATURES = ("brightness", "contrast", "saturation", "warmth", "tint", "sharpness", "noise", "pixels", "aspect")
COLORS, CLASSES, CONFIDENCE = "colours", "class mix", "confidence"
MEANINGS = {
    "brightness": "mean luma, 0..1",
    "contrast": "spread of luma over its mean",
    "saturation": "distance of the strongest from the weakest channel, over the strongest",
    "warmth": "log of red over blue",
    "tint": "log of green over the mean of red and blue",
    "sharpness": "log of fine over coarse gradients, without the grain",
    "noise": "log of the grain's standard deviation over the mean luma",
    "pixels": "log10 of width times height",
    "aspect": "log of width over height",
    COLORS: "histogram of red, green and blue",
    CLASSES: "share of the pixels predicted as each class",
    CONFIDENCE: "mean probability of the predicted class",
}

_BINS = 8
_PIXELS_SEEN = 65_536
_CROP = 512
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_DIGITS = 5


class DriftError(ValueError):
    """A profile cannot be read, or there is nothing to compare; the message says what to do."""


@dataclass(frozen=True)
class Seen:
    """What is kept of one image.

    Attributes:
        inputs: Each of `INPUT_FEATURES`.
        colors: Share of the pixels in each bin of red, green and blue, `[24]`, sum 3.
        mix: Share of the pixels predicted as each class, `[C]`; None where nothing was predicted.
        confidence: Mean probability of the predicted class; None where it is not known.
        by_class: Mean of that probability over the pixels of each class, `[C]`, NaN where the class was not predicted.
    """

    inputs: np.ndarray
    colors: np.ndarray
    mix: np.ndarray | None = None
    confidence: float | None = None
    by_class: np.ndarray | None = None


@dataclass(frozen=True)
class Profile:
    """What the reference images are like; a row for each of them.

    Attributes:
        classes: Names of the classes in label order.
        images: How many images the reference was taken from, split -> number.
        inputs: `[N, len(INPUT_FEATURES)]`, of training images.
        colors: `[N, 24]`, of the same.
        mix: `[M, C]`, of evaluated images.
        confidence: `[M]`, of the same.
        by_class: Mean probability where a class was predicted, `[C]`; NaN where it never was.
        prediction: Keywords of `segmodels.inference.Predictor` with which the evaluated images were predicted.
    """

    classes: tuple[str, ...]
    images: Mapping[str, int]
    inputs: np.ndarray
    colors: np.ndarray
    mix: np.ndarray
    confidence: np.ndarray
    by_class: np.ndarray
    prediction: Mapping[str, Any] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes it as JSON; the same profile gives the same bytes."""
        content = {
            "format": FORMAT,
            "classes": list(self.classes),
            "images": dict(self.images),
            "prediction": dict(self.prediction),
            "features": list(INPUT_FEATURES),
            "inputs": _rounded(self.inputs),
            "colors": _rounded(self.colors, 3),
            "mix": _rounded(self.mix),
            "confidence": _rounded(self.confidence),
            "by_class": _rounded(self.by_class),
        }
        lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in content.items())
        part = path.with_name(path.name + ".part")
        part.write_text("{\n" + lines + "\n}\n")
        os.replace(part, path)

    @classmethod
    def read(cls, path: Path | str) -> Profile:
        """Reads what `write` wrote.

        Raises:
            DriftError: The file is missing or not a profile.
        """
        try:
            raw = json.loads(Path(path).read_text())
            if raw["format"] != FORMAT or raw["features"] != list(INPUT_FEATURES):
                raise DriftError(f"{path}: made by another version of segmodels; evaluate the model again")
            classes = tuple(str(name) for name in raw["classes"])
            return cls(
                classes=classes,
                images={str(k): int(v) for k, v in raw["images"].items()},
                inputs=_array(raw["inputs"]).reshape(-1, len(INPUT_FEATURES)),
                colors=_array(raw["colors"]).reshape(-1, 3 * _BINS),
                mix=_array(raw["mix"]).reshape(-1, len(classes)),
                confidence=_array(raw["confidence"]),
                by_class=_array(raw["by_class"]).reshape(len(classes)),
                prediction=dict(raw["prediction"]),
            )
        except FileNotFoundError:
            raise DriftError(f"{path}: no such file; `evaluate` writes it beside metrics.json") from None
        except DriftError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DriftError(f"{path}: not a profile ({error!r}); evaluate the model again") from None


@dataclass(frozen=True)
class Finding:
    """One number compared.

    Attributes:
        name: A feature of `INPUT_FEATURES`, or `colours`, `class mix`, `confidence`.
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


def describe(image: np.ndarray) -> Seen:
    """What the picture itself is like; a few milliseconds.

    Args:
        image: RGB uint8 `[H, W, 3]`, at least 4 x 4.
    """
    height, width = image.shape[:2]
    step = max(1, math.isqrt(height * width // _PIXELS_SEEN))
    thin = np.ascontiguousarray(image[::step, ::step])
    colors = thin.reshape(-1, 3).astype(np.float32)
    luma = colors @ _LUMA
    mean = float(luma.mean())
    # Means over blocks, whose colours grain does not change.
    blocks = thin[: len(thin) // 4 * 4, : thin.shape[1] // 4 * 4].astype(np.float32)
    blocks = blocks.reshape(blocks.shape[0] // 4, 4, blocks.shape[1] // 4, 4, 3).mean((1, 3))
    strongest, weakest = float(blocks.max(2).mean()), float(blocks.min(2).mean())
    red, green, blue = (float(v) + 1.0 for v in colors.mean(0))
    top, left = max(0, (height - _CROP) // 2), max(0, (width - _CROP) // 2)
    sharpness, noise = _texture(image[top : top + _CROP, left : left + _CROP].astype(np.float32) @ _LUMA)
    inputs = [
        mean / 255,
        float(luma.std()) / (mean + 1.0),
        (strongest - weakest) / (strongest + 1.0),
        math.log(red / blue),
        math.log(2 * green / (red + blue)),
        sharpness,
        # The grain of a darker picture is weaker, too: that is no other noise.
        math.log((noise + 0.1) / (mean + 1.0)),
        math.log10(height * width),
        math.log(width / height),
    ]
    shares = [np.bincount(thin[..., c].ravel() // (256 // _BINS), minlength=_BINS) for c in range(3)]
    # Rounded as a profile's are: a width that all images share must not differ in the sixth digit.
    return Seen(_array(_rounded(np.array(inputs))), np.concatenate(shares) / luma.size)


def describe_prediction(
    classes: np.ndarray, confidence: np.ndarray, num_classes: int
) -> tuple[np.ndarray, float, np.ndarray]:
    """Class mix, mean confidence and confidence of each class, as `Seen` has them.

    Args:
        classes: Class ids `[H, W]`, each below `num_classes`.
        confidence: Probability of the predicted class `[H, W]`.
        num_classes: C.
    """
    flat = classes.ravel()
    counts = np.bincount(flat, minlength=num_classes)
    sums = np.bincount(flat, weights=confidence.ravel(), minlength=num_classes)
    by_class = np.divide(sums, counts, out=np.full(num_classes, np.nan), where=counts > 0)
    return counts / flat.size, float(confidence.mean(dtype=np.float64)), by_class


def see(image: np.ndarray, classes: np.ndarray, confidence: np.ndarray | None, num_classes: int) -> Seen:
    """What is kept of an image and its prediction.

    Args:
        image: RGB uint8 `[H, W, 3]`.
        classes: Predicted class ids `[H, W]`.
        confidence: Their probability `[H, W]`; None where it is not known, and so not compared.
        num_classes: C.
    """
    plain = describe(image)
    if confidence is None:
        mix = np.bincount(classes.ravel(), minlength=num_classes) / classes.size
        return Seen(plain.inputs, plain.colors, mix)
    return Seen(plain.inputs, plain.colors, *describe_prediction(classes, confidence, num_classes))


def build_profile(
    data: Path,
    classes: Sequence[str],
    split: str,
    predicted: Sequence[tuple[np.ndarray, float, np.ndarray]],
    prediction: Mapping[str, Any],
) -> Profile:
    """A model's profile: the training images as they are, and what it makes of images that it has not seen.

    Args:
        data: Dataset folder; its training images are read, `REFERENCE_IMAGES` of them at most.
        classes: Names of the classes in label order.
        split: The split that was predicted.
        predicted: Of images of this split, at least one, what `describe_prediction` gives.
        prediction: Keywords of the `Predictor`.

    Raises:
        DatasetError: A training image cannot be read.
    """
    listed = samples(data, "train")
    described = [describe(read_image(listed[i].image)) for i in spread(len(listed))]
    mix, by_class = np.stack([one[0] for one in predicted]), np.stack([one[2] for one in predicted])
    return Profile(
        classes=tuple(classes),
        images={"train": len(listed), split: DatasetInfo.read(data).splits.get(split, len(predicted))},
        inputs=np.stack([one.inputs for one in described]),
        colors=np.stack([one.colors for one in described]),
        mix=mix,
        confidence=np.array([one[1] for one in predicted]),
        by_class=confidence_by_class(mix, by_class),
        prediction=prediction,
    )


def confidence_by_class(mix: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Mean probability over all pixels predicted as a class `[C]`, from that of each image.

    Args:
        mix: Share of each image's pixels, `[N, C]`.
        by_class: Mean probability in each image, `[N, C]`; NaN where the class was not predicted.

    Returns:
        NaN where no image has the class.
    """
    known = np.isfinite(by_class)
    weights = np.where(known, mix, 0.0)
    total = weights.sum(0)
    sums = (np.where(known, by_class, 0.0) * weights).sum(0)
    return np.divide(sums, total, out=np.full(len(total), np.nan), where=total > 0)


def spread(total: int, count: int = REFERENCE_IMAGES) -> list[int]:
    """At most `count` indices, spread evenly over `range(total)`."""
    return [int(i) for i in np.unique(np.linspace(0, total - 1, min(count, total)).round())] if total else []


def compare(
    profile: Profile, seen: Sequence[Seen], *, alpha: float = ALPHA, resamples: int = 1000, seed: int = 0
) -> Drift:
    """Compares images with a profile.

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
    names = [*INPUT_FEATURES, COLORS, *([CLASSES] if sample.mix is not None else [])]
    names += [CONFIDENCE] if sample.confidence is not None else []
    wanted = [i for i, name in enumerate((*INPUT_FEATURES, COLORS, CLASSES, CONFIDENCE)) if name in names]
    null = _null(_Key(profile), len(seen), resamples, seed)[:, wanted]
    observed = np.array([_distance(profile, sample, name) for name in names])
    p, thresholds = _family(null, observed, alpha)
    enough = len(seen) >= LEAST
    findings = [
        _finding(profile, sample, name, observed[i], thresholds[i], p[i], drifted=enough and bool(p[i] <= alpha))
        for i, name in enumerate(names)
    ]
    findings.sort(key=_order)
    mix: dict[str, tuple[float, float]] = {}
    if sample.mix is not None:
        before, now = profile.mix.mean(0), sample.mix.mean(0)
        mix = {name: (float(before[i]), float(now[i])) for i, name in enumerate(profile.classes)}
    return Drift(len(seen), alpha, tuple(findings), mix)


class Monitor:
    """Drift of the last images that a server answered; safe to use from several threads.

        monitor = Monitor(Profile.read("profile.json"))
        monitor.add(image, classes, confidence)   # for each request, after it was answered: a few milliseconds
        monitor.prometheus()                      # when it is asked for its metrics

    Args:
        profile: The reference of the model that predicts; another version needs another monitor.
        window: How many of the last images are compared.
        alpha: The chance of a false alarm of one comparison.
        refresh: How many images must come before another comparison is made.
    """

    def __init__(self, profile: Profile, *, window: int = 300, alpha: float = ALPHA, refresh: int = 20) -> None:
        self.profile, self.alpha, self.refresh = profile, alpha, refresh
        self._last: deque[Seen] = deque(maxlen=window)
        self._total = self._compared = 0
        self._drift: Drift | None = None
        self._lock = threading.Lock()

    def add(self, image: np.ndarray, classes: np.ndarray, confidence: np.ndarray | None = None) -> None:
        """Takes an answered image into account.

        Args:
            image: RGB uint8 `[H, W, 3]`.
            classes: Predicted class ids, uint8 `[H, W]`.
            confidence: Probability of the predicted class `[H, W]`; always or never.
        """
        seen = see(image, classes, confidence, len(self.profile.classes))
        with self._lock:
            self._last.append(seen)
            self._total += 1

    @property
    def total(self) -> int:
        """How many images were taken into account."""
        return self._total

    @property
    def least(self) -> int:
        """How many images the first comparison needs."""
        return self.refresh * math.ceil(LEAST / self.refresh)

    def drift(self) -> Drift | None:
        """The newest comparison; None before there are enough images."""
        with self._lock:
            full = len(self._last) == self._last.maxlen
            # Multiples of `refresh`, so that only few sizes of samples have to be drawn from the reference.
            count = len(self._last) if full else len(self._last) // self.refresh * self.refresh
            due = self._drift is None or self._total - self._compared >= self.refresh
            if count < LEAST or not due:
                return self._drift
            last, total = list(self._last)[-count:], self._total
        drift = compare(self.profile, last, alpha=self.alpha)
        with self._lock:
            self._drift, self._compared = drift, total
        return drift

    def prometheus(self) -> str:
        """The newest comparison in Prometheus' text format; empty before there are enough images."""
        drift = self.drift()
        return prometheus(drift) if drift is not None else ""


def prometheus(drift: Drift, labels: Mapping[str, str] | None = None) -> str:
    """A comparison in Prometheus' text format.

    Args:
        drift: The comparison.
        labels: Further labels of every sample, e.g. the model's version.
    """
    shared = dict(labels or {})

    def sample(name: str, value: float, **own: str) -> str:
        inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in {**shared, **own}.items())
        return f"segmodels_drift_{name}{{{inside}}} {value:.6g}" if inside else f"segmodels_drift_{name} {value:.6g}"

    def family(name: str, meaning: str, samples: Sequence[str]) -> list[str]:
        return [f"# HELP segmodels_drift_{name} {meaning}", f"# TYPE segmodels_drift_{name} gauge", *samples]

    findings = sorted(drift.findings, key=lambda finding: finding.name)
    lines = family("images", "Images compared with the reference.", [sample("images", drift.images)])
    lines += family("detected", "1 where any feature drifted.", [sample("detected", float(bool(drift.drifted)))])
    for name, meaning in (
        ("distance", "Kolmogorov-Smirnov distance or Jensen-Shannon divergence to the reference."),
        ("threshold", "The distance that chance alone exceeds with the alarm's probability."),
        ("psi", "Population stability index against the reference."),
        ("p", "Chance of such a distance among all features without drift."),
    ):
        lines += family(name, meaning, [sample(name, getattr(f, name), feature=f.name) for f in findings])
    shares = [sample("class_share", now, **{"class": name}) for name, (_, now) in drift.mix.items()]
    before = [sample("class_share_reference", was, **{"class": name}) for name, (was, _) in drift.mix.items()]
    lines += family("class_share", "Share of the pixels predicted as the class.", shares) if shares else []
    lines += family("class_share_reference", "The same in the reference.", before) if before else []
    return "\n".join(lines) + "\n"


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
    if name == CLASSES:
        assert sample.mix is not None
        return _jensen_shannon(profile.mix.mean(0), sample.mix.mean(0))
    before, now = _numbers(profile, sample, name)
    return _kolmogorov_smirnov(before, now)


def _numbers(profile: Profile, sample: _Sample, name: str) -> tuple[np.ndarray, np.ndarray]:
    if name == CONFIDENCE:
        assert sample.confidence is not None
        return profile.confidence, sample.confidence
    column = INPUT_FEATURES.index(name)
    return profile.inputs[:, column], sample.inputs[:, column]


@functools.lru_cache(maxsize=64)
def _null(key: _Key, size: int, resamples: int, seed: int) -> np.ndarray:
    """Distances `[resamples, features]` between samples that are both drawn from the reference.

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
    """Each value's place among the distinct ones: distances need their order alone."""
    return np.unique(values, return_inverse=True)[1]


def _of_ranks(ranks: np.ndarray, one: np.ndarray, two: np.ndarray) -> float:
    """The Kolmogorov-Smirnov distance of two samples, without sorting."""
    kinds = int(ranks.max()) + 1
    first = np.bincount(ranks[one], minlength=kinds).cumsum() / len(one)
    second = np.bincount(ranks[two], minlength=kinds).cumsum() / len(two)
    return float(np.abs(first - second).max())


def _kolmogorov_smirnov(before: np.ndarray, now: np.ndarray) -> float:
    """The largest distance of two empirical distribution functions."""
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
    if name in (COLORS, CLASSES):
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
    """Shares of both in bins that hold a tenth of the reference each."""
    edges = np.unique(np.quantile(before, np.linspace(0.1, 0.9, 9)))
    # A reference of one value has a bin of its own for it, with what lies below and above on either side.
    if before.min() == before.max():
        edges = np.array([before[0] - _least(before[0]), before[0] + _least(before[0])])
    bins = len(edges) + 1
    first, second = (np.bincount(np.searchsorted(edges, v), minlength=bins) for v in (before, now))
    return first / len(before), second / len(now)


def _psi(before: np.ndarray, now: np.ndarray, counts: tuple[int, int] | None = None) -> float:
    """Population stability index of two distributions, less what chance adds to it; at least 0.

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
    """The standard deviation below which numbers count as all the same."""
    return np.asarray(1e-3 + 1e-3 * np.abs(mean))


def _order(finding: Finding) -> tuple[bool, bool, float]:
    """What drifted first; of these single numbers, the most moved one first, since distributions name no cause."""
    is_number = math.isfinite(finding.shift)
    cause = is_number and finding.name != CONFIDENCE
    return not finding.drifted, not cause, -abs(finding.shift) if is_number else -finding.psi


def _in_words(finding: Finding) -> str:
    if not math.isfinite(finding.shift):
        return f"{finding.name} changed ({finding.size})"
    return f"{finding.name} {'higher' if finding.shift > 0 else 'lower'} ({finding.size})"


def _texture(luma: np.ndarray) -> tuple[float, float]:
    """Sharpness, and the standard deviation of the noise in grey levels, of luma `[H, W]`."""
    # Second differences in both directions cancel edges and slopes; the median leaves texture out (Immerkaer, 1996,
    # with a robust mean).
    rows = luma[:-2] - 2 * luma[1:-1] + luma[2:]
    grain = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    noise = float(np.median(np.abs(grain))) / (6 * 0.6745)
    fine = np.square(np.diff(luma, axis=0)).mean() + np.square(np.diff(luma, axis=1)).mean()
    coarse = np.square(luma[2:] - luma[:-2]).mean() + np.square(luma[:, 2:] - luma[:, :-2]).mean()
    # Grain gives each of the two squared differences twice its variance; a tenth is left where it is all there is.
    of_grain = 4 * noise**2
    sharp, smooth = (max(float(v) - of_grain, 0.1 * float(v)) + 0.01 for v in (fine, coarse))
    return math.log(sharp / smooth), noise


def _rounded(values: np.ndarray, digits: int = _DIGITS) -> Any:
    """Nested lists of numbers with few digits; NaN as null."""
    if values.ndim > 1:
        return [_rounded(row, digits) for row in values]
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
