"""Search for the settings of a dense CRF on validation images (DeepLab v1, section 4.1: "cross validation").

The spatial kernel keeps its settings, as in the paper; the bilateral kernel's weight and two standard deviations go
over a coarse grid, then over a finer one around the best point.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from segmodels.data.bands import view
from segmodels.data.folder import Sample, read_label, samples
from segmodels.inference.averaging import refined
from segmodels.inference.predictor import Predictor
from segmodels.settings.schema import CRFSettings
from segmodels.tasks.semantic import INFO
from segmodels.tasks.semantic.metrics import confusion_matrix, scores

COARSE = {"bilateral_weight": (2.0, 5.0, 10.0), "bilateral_xy": (20.0, 50.0, 100.0), "bilateral_rgb": (3.0, 6.0, 12.0)}
# The finer grid multiplies the best point's values: about half way to its neighbours.
FINE = (0.7, 1.0, 1.4)


@dataclass(frozen=True)
class Trial:
    """Settings and what they reach; no settings is the model without a CRF.

    Attributes:
        settings: Of the CRF.
        figure: mIoU on the images of the search, in 0..1.
    """

    settings: CRFSettings | None
    figure: float


def tune_crf(
    predictor: Predictor,
    data: Path,
    *,
    images: int = 20,
    start: CRFSettings | None = None,
    on_trial: Callable[[Trial], None] = lambda trial: None,
) -> list[Trial]:
    """Try settings on images spread over the `val` split.

    Args:
        predictor: The model, without a CRF of its own.
        data: Dataset folder.
        images: How many images; the paper takes 100.
        start: Settings that the search leaves alone: spatial kernel and iterations.
        on_trial: Told each trial when it is done.

    Returns:
        Every trial, the best first; on a tie the one tried first, so that a CRF that gains nothing is not taken.
    """
    chosen = _spread(samples(data, "val"), images)
    classes = len(predictor.config.classes)
    pixels = [predictor.pixels(sample.image) for sample in chosen]
    labels = [torch.tensor(read_label(sample.label)) for sample in chosen]
    probs = [predictor.maps(image) for image in pixels]
    trials: list[Trial] = []

    def attempt(settings: CRFSettings | None) -> Trial:
        for trial in trials:
            if trial.settings == settings:
                return trial
        trial = Trial(settings, _figure(probs, pixels, labels, classes, settings))
        trials.append(trial)
        on_trial(trial)
        return trial

    attempt(None)
    base = start or CRFSettings()
    best = max((attempt(_at(base, values)) for values in itertools.product(*COARSE.values())), key=lambda t: t.figure)
    center = [getattr(best.settings, name) for name in COARSE]
    for factors in itertools.product(FINE, repeat=len(COARSE)):
        attempt(_at(base, [round(value * factor, 2) for value, factor in zip(center, factors, strict=True)]))
    return sorted(trials, key=lambda trial: -trial.figure)


def _at(base: CRFSettings, point: Sequence[float]) -> CRFSettings:
    weight, xy, rgb = point
    return replace(base, bilateral_weight=weight, bilateral_xy=xy, bilateral_rgb=rgb)


@torch.inference_mode()
def _figure(
    probs: Sequence[Tensor],
    images: Sequence[np.ndarray],
    labels: Sequence[Tensor],
    classes: int,
    settings: CRFSettings | None,
) -> float:
    matrix = torch.zeros(classes, classes, dtype=torch.int64)
    for one, image, label in zip(probs, images, labels, strict=True):
        prediction = refined(one[None], [view(image)], settings)[0].argmax(0).to(torch.uint8).cpu()
        matrix += confusion_matrix(prediction, label, classes)
    return float(scores(matrix.numpy())[INFO.main.key])


def _spread(frames: Sequence[Sample], count: int) -> list[Sample]:
    """Return that many samples at equal distances: neighbours in a video show the same street."""
    places = np.linspace(0, len(frames) - 1, min(count, len(frames))).round().astype(int)
    return [frames[place] for place in places]
