"""Drift of the images that a server answers, also as Prometheus' metrics."""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Mapping, Sequence

import numpy as np

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.drift.comparison import ALPHA, LEAST, Drift, compare
from segmodels.drift.profile import Profile, Seen, see
from segmodels.tasks.base import Prediction


class Monitor:
    """Drift of the last images that a server answered; safe to use from several threads.

        monitor = Monitor(Profile.read("profile.json"), config)
        monitor.add(image, prediction)    # for each request, after it was answered: a few milliseconds
        monitor.prometheus()              # when it is asked for its metrics

    Args:
        profile: The reference of the model that predicts; another version needs another monitor.
        config: The description of that model.
        window: How many of the last images are compared.
        alpha: The chance of a false alarm of one comparison.
        refresh: How many images must come before another comparison is made.
    """

    def __init__(
        self, profile: Profile, config: ModelConfig, *, window: int = 300, alpha: float = ALPHA, refresh: int = 20
    ) -> None:
        self.profile, self.config, self.alpha, self.refresh = profile, config, alpha, refresh
        self._last: deque[Seen] = deque(maxlen=window)
        self._total = self._compared = 0
        self._drift: Drift | None = None
        self._lock = threading.Lock()

    def add(self, image: np.ndarray, prediction: Prediction) -> None:
        """Take an answered image, RGB uint8 `[H, W, 3]`, into account; confidence is there always or never."""
        seen = see(image, prediction, self.config)
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
        """Return the newest comparison; None before there are enough images."""
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
        """Return the newest comparison in Prometheus' text format; empty before there are enough images."""
        drift = self.drift()
        return prometheus(drift) if drift is not None else ""


def prometheus(drift: Drift, labels: Mapping[str, str] | None = None) -> str:
    """Return a comparison in Prometheus' text format.

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
    lines += (
        family(
            "class_share", "Share of the pixels predicted as the class, or as what the task has in its place.", shares
        )
        if shares
        else []
    )
    lines += family("class_share_reference", "The same in the reference.", before) if before else []
    return "\n".join(lines) + "\n"


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
