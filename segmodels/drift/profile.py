"""What images and predictions are like, in a few numbers of each.

A profile keeps them of the reference: of training images what describes the picture, of evaluated images what the model
made of them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.data.bands import view
from segmodels.data.folder import DatasetInfo, samples
from segmodels.errors import UserError, brief
from segmodels.files import ContentError, read_json, write_text
from segmodels.runtime import available_cores
from segmodels.tasks import DEFAULT, get_task, named, task_info
from segmodels.tasks.base import Prediction

PROFILE_FILE = "profile.json"
FORMAT = 1
# A profile stays small however large the dataset: so many images, spread evenly over it.
REFERENCE_IMAGES = 400

INPUT_FEATURES = ("brightness", "contrast", "saturation", "warmth", "tint", "sharpness", "noise", "pixels", "aspect")
COLORS = "colours"
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
}


def meanings(task: str) -> dict[str, str]:
    """Return what is compared, name -> its meaning; the last two are the task's, of predictions."""
    watched = task_info(task).watched
    return {**MEANINGS, **dict([watched.shares, watched.number])}


_BINS = 8
_PIXELS_SEEN = 65_536
_CROP = 512
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)
_DIGITS = 5


class DriftError(UserError, ValueError):
    """A profile cannot be read, or there is nothing to compare; the message says what to do."""


@dataclass(frozen=True)
class Seen:
    """What is kept of one image.

    Attributes:
        inputs: Each of `INPUT_FEATURES`.
        colors: Share of the pixels in each bin of red, green and blue, `[24]`, sum 3.
        mix: Share of the pixels predicted as each part (class), `[C]`; None where nothing was predicted.
        confidence: The task's number, e.g. the mean probability of the predicted class; None where it is not known.
        by_class: Mean of the confidence over the pixels of each part, `[C]`, NaN where there is none.
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
        classes: Names of the parts: classes in label order, or what the task has in their place.
        images: How many images the reference was taken from, split -> number.
        inputs: `[N, len(INPUT_FEATURES)]`, of training images.
        colors: `[N, 24]`, of the same.
        mix: `[M, C]`, of evaluated images.
        confidence: `[M]`, of the same.
        by_class: Mean probability where a class was predicted, `[C]`; NaN where it never was.
        prediction: Keywords of `segmodels.Predictor` with which the evaluated images were predicted.
        task: What was predicted.
    """

    classes: tuple[str, ...]
    images: Mapping[str, int]
    inputs: np.ndarray
    colors: np.ndarray
    mix: np.ndarray
    confidence: np.ndarray
    by_class: np.ndarray
    prediction: Mapping[str, Any] = field(default_factory=dict)
    task: str = DEFAULT

    @property
    def watched(self) -> tuple[str, str]:
        """Names of what is compared of predictions: the mix, and the number."""
        named_so = task_info(self.task).watched
        return named_so.shares[0], named_so.number[0]

    def write(self, path: Path) -> None:
        """Write it as JSON; the same profile gives the same bytes."""
        content = {
            "format": FORMAT,
            **named(self.task),
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
        write_text(path, "{\n" + lines + "\n}\n")

    @classmethod
    def read(cls, path: Path | str) -> Profile:
        """Read what `write` wrote.

        Raises:
            DriftError: The file is missing or not a profile.
        """
        try:
            raw = read_json(Path(path), 1 << 30)
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
                task=task_info(raw.get("task", DEFAULT)).name,
            )
        except FileNotFoundError:
            raise DriftError(f"{path}: no such file; `evaluate` writes it beside metrics.json") from None
        except DriftError:
            raise
        except ContentError as error:
            why = str(error).removeprefix(f"{path}: ")
            raise DriftError(f"{path}: not a profile ({why}); evaluate the model again") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DriftError(f"{path}: not a profile ({brief(error)}); evaluate the model again") from None


def describe(image: np.ndarray) -> Seen:
    """Return what the picture itself is like; a few milliseconds.

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


def see(image: np.ndarray, prediction: Prediction, config: ModelConfig) -> Seen:
    """Return what is kept of an image, as `Predictor.pixels` gives it, and of what a model predicts of it."""
    plain = describe(view(image))
    return Seen(plain.inputs, plain.colors, *get_task(config.task).describe(prediction, config.parts))


def build_profile(
    data: Path,
    config: ModelConfig,
    split: str,
    predicted: Sequence[tuple[np.ndarray, float | None, np.ndarray]],
    prediction: Mapping[str, Any],
) -> Profile:
    """Return a model's profile: the training images as they are, and what it makes of images that it has not seen.

    Args:
        data: Dataset folder; its training images are read, `REFERENCE_IMAGES` of them at most.
        config: The model's description.
        split: The split that was predicted.
        predicted: Of images of this split, at least one, what `Task.describe` gives.
        prediction: Keywords of the `Predictor`.

    Raises:
        DatasetError: A training image cannot be read.
    """
    listed = samples(data, "train", get_task(config.task).info.needs)

    def look(index: int) -> Seen:
        return describe(view(config.bands.read(listed[index].image)))

    with ThreadPoolExecutor(available_cores()) as pool:
        described = list(pool.map(look, spread(len(listed))))
    mix, by_class = np.stack([one[0] for one in predicted]), np.stack([one[2] for one in predicted])
    return Profile(
        classes=tuple(config.part_names),
        images={"train": len(listed), split: DatasetInfo.read(data).splits.get(split, len(predicted))},
        inputs=np.stack([one.inputs for one in described]),
        colors=np.stack([one.colors for one in described]),
        mix=mix,
        confidence=np.array([np.nan if one[1] is None else one[1] for one in predicted]),
        by_class=confidence_by_class(mix, by_class),
        prediction=prediction,
        task=config.task,
    )


def confidence_by_class(mix: np.ndarray, by_class: np.ndarray) -> np.ndarray:
    """Return mean probability over all pixels predicted as a class `[C]`, from that of each image.

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
    """Return nested lists of numbers with few digits; NaN as null."""
    if values.ndim > 1:
        return [_rounded(row, digits) for row in values]
    return [float(f"{v:.{digits}g}") if math.isfinite(v) else None for v in values.tolist()]


def _array(values: Any) -> np.ndarray:
    return np.array(values, dtype=np.float64)
