"""What a task is: what is predicted, how it is learnt, measured, shown and sent.

Training, evaluation, the gate, reports and servers know these nouns and no task by name. A task has a light half,
`TaskInfo`, which names figures and rules and imports nothing heavy, and a heavy one, `Task`, which computes.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from segmodels.errors import UserError, nearest

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    from torch import Tensor, nn

    from segmodels.data.folder import ClassInfo
    from segmodels.data.frequencies import ClassCounts
    from segmodels.data.palette import Palette
    from segmodels.settings.schema import EvaluateSettings, TrainSettings

Color = tuple[int, int, int]


class TaskError(UserError, ValueError):
    """Something does not go with the task; the message says what does."""


@dataclass(frozen=True)
class Figure:
    """One number by which predictions are measured.

    Attributes:
        key: Its name in files, settings and MLflow.
        label: Its name for a person.
        better: Whether more or less of it is better.
        unit: `share`, shown in per cent, or a unit that is put behind the number; empty for a plain number.
        short: Its name in a narrow table; the label by default.
    """

    key: str
    label: str
    better: Literal["more", "less"] = "more"
    unit: str = "share"
    short: str = ""

    def number(self, value: float | None, digits: int = 1) -> str:
        """Return a value without its unit, as it stands in a column; `-` where there is none."""
        if value is None or not math.isfinite(value):
            return "-"
        if self.unit == "share":
            return f"{100 * value:.{digits}f}"
        return f"{value:.{digits}f}" if self.unit == "°" else f"{value:.{digits + 2}f}"

    def show(self, value: float | None) -> str:
        """Return a value with its unit; `-` where there is none."""
        number, unit = self.number(value), "%" if self.unit == "share" else self.unit
        if number == "-" or not unit:
            return number
        return f"{number}{unit}" if unit == "°" else f"{number} {unit}"

    def change(self, difference: float) -> str:
        """Return a difference with its sign, in points of per cent for a share."""
        shown = f"{100 * difference:+.1f}" if self.unit == "share" else f"{difference:+.3f}"
        return shown[1:] if float(shown) == 0 else shown

    @property
    def step(self) -> str:
        """The unit of a difference."""
        return "points" if self.unit == "share" else self.unit

    def gain(self, difference: float) -> float:
        """Return by how much better a value became that changed by `difference`."""
        return difference if self.better == "more" else -difference

    def quality(self, value: float | None) -> float:
        """Return a value so that more of it is better; minus infinity where there is none."""
        return -math.inf if value is None or math.isnan(value) else self.gain(value)

    @property
    def column(self) -> str:
        """Its name in a narrow table."""
        return self.short or self.label


@dataclass(frozen=True)
class Watched:
    """What drift compares of predictions, in words.

    Attributes:
        shares: Name and meaning of the distribution over the task's parts.
        number: Name and meaning of one number of each prediction.
    """

    shares: tuple[str, str]
    number: tuple[str, str]


@dataclass(frozen=True)
class TaskInfo:
    """The light half of a task.

    Attributes:
        name: As settings have it.
        kind: What architectures need to know of it: `dense` is a map for each channel.
        title: For a person.
        needs: The targets that it learns from.
        shown: Its figures, the main one first: it picks the epoch and sorts the leader board.
        each: The figure that every part has; its key is `<key>/<part>`.
        validated: Keys of the figures that training tells after each epoch.
        part: What a part is: a class, a range.
        losses: Names of the terms that `train.loss` may have.
        loss: The terms by default, name -> weight.
        rules: What the gate asks by default, figure -> rule.
        watched: What drift compares.
        forms: What an answer can be, name -> its media types; the first form and the first type by default.
        sampled: Whether predictions are probabilities, which a CRF refines and dropout samples.
        needs_classes: Whether what it predicts are the dataset's classes.
        former: Keys of `register` in earlier releases -> figure and rule that say the same.
    """

    name: str
    kind: str
    title: str
    needs: tuple[str, ...]
    shown: tuple[Figure, ...]
    each: Figure
    validated: tuple[str, ...]
    part: str
    losses: tuple[str, ...]
    loss: Mapping[str, float]
    rules: Mapping[str, Mapping[str, float]]
    watched: Watched
    forms: Mapping[str, tuple[str, ...]]
    sampled: bool = False
    needs_classes: bool = False
    former: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    @property
    def main(self) -> Figure:
        """The figure that decides."""
        return self.shown[0]

    def figure(self, key: str) -> Figure:
        """Return the figure of a key, `<each>/<part>` and `<each>/*` too.

        Raises:
            TaskError: There is none.
        """
        prefix, _, part = key.partition("/")
        if part and prefix == self.each.key:
            return Figure(key, f"{self.each.label} of {part}", self.each.better, self.each.unit)
        for figure in self.shown:
            if figure.key == key:
                return figure
        known = [figure.key for figure in self.shown] + [f"{self.each.key}/*"]
        raise TaskError(f"{self.title} has no figure '{key}'{nearest(key, known)}")

    def told(self, figures: Mapping[str, float]) -> str:
        """Return the main figure of a validation, `val_<key>` of the figures, for a person."""
        return f"{self.main.label} {self.main.show(figures.get(f'val_{self.main.key}'))}"

    def with_loss(self, settings: TrainSettings) -> TrainSettings:
        """Return the settings with the task's terms of the loss where they name none.

        Raises:
            TaskError: They name one that the task has not.
        """
        self.check_loss(settings.loss)
        return settings if settings.loss else dataclasses.replace(settings, loss=dict(self.loss))

    def check_loss(self, terms: Mapping[str, float]) -> None:
        """Refuse terms of `train.loss` that the task has not.

        Raises:
            TaskError: There is such a one.
        """
        for term in terms:
            if term not in self.losses:
                raise TaskError(f"train.loss: unknown term '{term}'; known are {', '.join(self.losses)}")


@dataclass(frozen=True)
class Part:
    """What predictions are counted by: a class, a range of depths; its name and its colour."""

    name: str
    color: Color


@dataclass(frozen=True)
class Prediction:
    """What is predicted for an image.

    Attributes:
        value: `[H, W]` or `[H, W, K]`.
        confidence: Probability of the value `[H, W]`; None where the task knows none.
    """

    value: np.ndarray
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class Counts:
    """What one unit counted.

    Attributes:
        each: Small arrays that are kept of every unit, name -> array.
        confusion: Pixels of each true part predicted as each part, int64 `[K, K]`; summed over the units.
        own: How good this unit is by itself, more is better: what finds the best and the worst.
    """

    each: Mapping[str, np.ndarray]
    confusion: np.ndarray
    own: float


@dataclass(frozen=True)
class Tally:
    """The counts of N units, as `segmodels.tasks.per_image.PerImage` holds them.

    Attributes:
        parts: Names of the K parts.
        counts: Name -> `[N, …]`.
    """

    parts: Sequence[str]
    counts: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True)
class Form:
    """One kind of answer: content type -> the bytes of an image and its prediction in it."""

    encode: Mapping[str, Callable[[Answered], bytes]]


@dataclass(frozen=True)
class Answered:
    """What an answer is made of.

    Attributes:
        image: RGB, uint8 `[H, W, 3]`.
        value: What was predicted for it.
        name: The image's.
        parts: The parts, with their colours.
        alpha: How much of the colours is seen in pictures, 0..1.
    """

    image: np.ndarray
    value: np.ndarray
    name: str
    parts: Sequence[Part]
    alpha: float = 0.5


class Task(ABC):
    """The heavy half of a task: what is learnt, computed, measured and drawn."""

    info: TaskInfo

    # What a network gives

    @abstractmethod
    def channels(self, classes: Sequence[ClassInfo]) -> int:
        """Return how many maps the network gives."""

    @abstractmethod
    def parts(self, classes: Sequence[ClassInfo]) -> tuple[Part, ...]:
        """Return what predictions are counted by."""

    @abstractmethod
    def activate(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Return the maps of a network's outputs, float32 `[N, C, h, w]`, as they may be averaged and resized."""

    def restore(self, maps: Tensor, *, mirrored: bool, scale: float) -> Tensor:
        """Return the maps of the image itself from those of its mirror image, or of an image `scale` times as large."""
        return maps.flip(-1) if mirrored else maps

    @abstractmethod
    def decide(self, maps: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the values of maps, one for each image, and their confidence `[N, H, W]` where there is one."""

    def decide_at_once(self, outputs: Mapping[str, Tensor], *, confident: bool) -> tuple[Tensor, Tensor | None]:
        """Return what `decide` gives for one plain pass, where there is a faster way."""
        values, confidence = self.decide(self.activate(outputs))
        return values, confidence if confident else None

    # How it is learnt

    @abstractmethod
    def criterion(self, settings: TrainSettings, counts: ClassCounts | None) -> nn.Module:
        """Return the training criterion: (map `[N, C, H, W]`, targets) -> scalar.

        Raises:
            TaskError: A term of the loss is unknown.
        """

    @abstractmethod
    def plain_criterion(self, settings: TrainSettings) -> nn.Module:
        """Return what validation tells as its loss."""

    @abstractmethod
    def summed(self, channels: int, settings: TrainSettings) -> Any:
        """Return a metric of torchmetrics: `update(maps, targets)`, and `figures()` of what it has seen."""

    # How it is measured

    @abstractmethod
    def count(
        self, prediction: Prediction, truth: Mapping[str, Tensor], parts: Sequence[Part], settings: EvaluateSettings
    ) -> Counts:
        """Return what one image counts; the truth has the image's own size."""

    @abstractmethod
    def figures(self, measured: Tally, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each figure, `[B]`, of images that count several times or not at all; NaN where it does not exist.

        Args:
            measured: The counts of N images.
            weights: How often each image counts, float64 `[B, N]`.
        """

    def metrics(self, measured: Tally, confusion: np.ndarray) -> dict[str, Any]:
        """Return what `metrics.json` tells of all images together, `per_class` the main figure of each part."""
        import numpy as np

        count = len(next(iter(measured.counts.values())))
        figures = {key: float(value[0]) for key, value in self.figures(measured, np.ones((1, count))).items()}
        prefix = f"{self.info.each.key}/"
        plain = {key: _number(value) for key, value in figures.items() if not key.startswith(prefix)}
        each = {name: _number(figures[f"{prefix}{name}"]) for name in measured.parts}
        return {**plain, "per_class": each}

    @abstractmethod
    def table(self, measured: Tally, confusion: np.ndarray) -> tuple[list[str], list[list[Any]]]:
        """Return header and rows of `per_class.csv`, a row for each part."""

    @abstractmethod
    def describe(self, prediction: Prediction, parts: Sequence[Part]) -> tuple[np.ndarray, float | None, np.ndarray]:
        """Return what drift watches of a prediction.

        Returns:
            Share of the pixels in each part `[K]`, one number (None where it is not known), and the mean confidence
            in each part `[K]`, NaN where there is none.
        """

    # How it is shown

    def value(self, stored: np.ndarray) -> np.ndarray:
        """Return what was read from a file of the first target as a prediction has it, `[H, W]` or `[H, W, K]`."""
        return stored if stored.ndim == 2 else stored.transpose(1, 2, 0)

    @abstractmethod
    def draw(self, values: Sequence[np.ndarray], parts: Sequence[Part]) -> list[np.ndarray]:
        """Return pictures of values, RGB uint8 `[H, W, 3]`, all on the scale of the first."""

    @abstractmethod
    def errors(self, truth: np.ndarray, value: np.ndarray) -> np.ndarray:
        """Return a picture of where a value is wrong, RGB uint8 `[H, W, 3]`."""

    @abstractmethod
    def note(self, truth: np.ndarray, value: np.ndarray) -> str:
        """Return in a few characters how good a value is."""

    def key_picture(self, truth: np.ndarray, parts: Sequence[Part]) -> np.ndarray | None:
        """Return the scale of `draw`, to stand beside pictures, RGB uint8; None where none is needed."""
        return None

    @abstractmethod
    def overlay(self, image: np.ndarray, value: np.ndarray, palette: Palette, alpha: float) -> np.ndarray:
        """Return a value's colours over its image, RGB uint8 `[H, W, 3]`; `alpha` tells how much of them is seen."""

    # Files and answers

    @abstractmethod
    def write(self, value: np.ndarray, palette: Palette, path: Path) -> None:
        """Write a prediction as a PNG, whole or not at all."""

    @abstractmethod
    def raster(self) -> dict[str, Any]:
        """Return how a GeoTIFF of values is made: `dtype`, `count` and `nodata`."""

    @abstractmethod
    def forms(self) -> Mapping[str, Form]:
        """Return how each form of `info.forms` is encoded."""

    def document(self, form: str, answered: Sequence[Answered]) -> bytes | None:
        """Return one document for several images; None where the form has a file for each."""
        return None

    # Exported files

    @abstractmethod
    def outputs(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what an exported network gives, name -> `dtype`, `shape` and `content`, in the order of `decide`."""


def over(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Return quotients; NaN where nothing was counted."""
    import numpy as np

    sums, counts = np.broadcast_arrays(np.asarray(sums, np.float64), np.asarray(counts, np.float64))
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _number(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
