"""Drift of a folder of images: the comparison with a profile, what to label first, and both as a page."""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import math
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmodels.data.bands import view
from segmodels.data.folder import DatasetError
from segmodels.drift.comparison import Drift, compare
from segmodels.drift.monitor import prometheus
from segmodels.drift.profile import (
    INPUT_FEATURES,
    DriftError,
    Profile,
    Seen,
    confidence_by_class,
    meanings,
    see,
)
from segmodels.files import write_text
from segmodels.inference.predictor import Predictor
from segmodels.settings.schema import PredictSettings
from segmodels.tasks import task_info

TEMPLATE = Path(__file__).with_name("report.html.j2")
# A first round of labelling: a tenth of what the model was trained on, since fewer images hardly move it.
SHARE_TO_LABEL, LEAST_TO_LABEL = 0.1, 20
SHOWN_IMAGES, SHOWN_BINS = 12, 24
THUMBNAIL = 300
_FORMATS = (".html", ".json", ".prom")


@dataclass(frozen=True)
class Candidate:
    """An image worth a label.

    Attributes:
        path: The file.
        confidence: Mean probability of the predicted class.
        unlike: Its feature that is farthest from the reference, in standard deviations.
        feature: That feature.
    """

    path: Path
    confidence: float
    unlike: float
    feature: str


@dataclass(frozen=True)
class Concern:
    """A class whose predictions changed.

    Attributes:
        name: The class.
        before: Its share of the pixels in the reference.
        now: Its share here.
        sure_before: Mean probability where it is predicted, in the reference; NaN where it never was.
        sure_now: The same here.
    """

    name: str
    before: float
    now: float
    sure_before: float
    sure_now: float


@dataclass(frozen=True)
class Report:
    """A comparison and what it would take to retrain.

    Attributes:
        drift: The comparison.
        model: The model folder.
        label: How many images to label in a first round; 0 where nothing drifted.
        candidates: All images, those to label first first.
        concerns: The classes to look at first.
        problems: A sentence for each image that could not be read.
    """

    drift: Drift
    model: Path
    label: int
    candidates: tuple[Candidate, ...]
    concerns: tuple[Concern, ...]
    problems: tuple[str, ...]

    @property
    def commands(self) -> list[str]:
        """How the labelled images become another model, line by line."""
        return [
            "# the dataset folder of `data.source` in params.yaml: photos/images, photos/labels",
            f"cp {shlex.join(str(c.path) for c in self.candidates[: self.label])} photos/images/",
            "# label each as photos/labels/NAME.png: class ids, 255 where nobody can tell",
            "dvc repro -f download   # takes the images in",
            "dvc repro               # validates, trains, evaluates, registers",
            "dvc metrics diff        # what it gained",
        ]


def measure(
    images: Sequence[Path],
    model: Path,
    profile: Profile,
    *,
    device: str = "auto",
    on_done: Callable[[Path], None] = lambda path: None,
) -> tuple[Report, list[Seen], Predictor]:
    """Compare image files with a profile.

    Args:
        images: The files; one that cannot be read is told of and left out.
        model: The model folder that the profile belongs to.
        profile: The reference.
        device: auto, cpu or cuda.
        on_done: Called after each file.

    Returns:
        The report, what is known of each of its images, in the order of the files, and what predicted.

    Raises:
        CheckpointError: The folder is no model folder.
        DriftError: The profile is another model's, or no image could be read.
    """
    predictor = Predictor(model, device, settings=PredictSettings.of(profile.prediction))
    names = predictor.config.part_names
    if list(profile.classes) != names or profile.task != predictor.config.task:
        raise DriftError(
            f"{model}: its classes ({', '.join(names)}) are not the profile's ({', '.join(profile.classes)}); "
            "give the profile.json that was written when this model was evaluated"
        )
    kept: list[Path] = []
    seen: list[Seen] = []
    problems: list[str] = []
    for path in images:
        try:
            image = predictor.pixels(path)
            seen.append(predict_and_see(image, predictor))
            kept.append(path)
        except DatasetError as error:
            problems.append(str(error))
        except RuntimeError as error:
            problems.append(f"{path}: the network failed ({str(error).splitlines()[0]})")
        on_done(path)
    drift = compare(profile, seen)
    report = Report(
        drift,
        model,
        to_label(profile, drift),
        tuple(candidates(profile, kept, seen)),
        tuple(concerns(profile, seen)),
        tuple(problems),
    )
    return report, seen, predictor


def predict_and_see(image: np.ndarray, predictor: Predictor) -> Seen:
    """Return what is kept of an image, RGB uint8 `[H, W, 3]`, and of what a model makes of it."""
    (prediction,) = predictor.predict_with_confidence([image])
    return see(image, prediction, predictor.config)


def to_label(profile: Profile, drift: Drift) -> int:
    """Return how many images to label in a first round."""
    if not drift.drifted:
        return 0
    wanted = max(LEAST_TO_LABEL, math.ceil(SHARE_TO_LABEL * profile.images.get("train", 0)))
    return min(wanted, drift.images)


def candidates(profile: Profile, paths: Sequence[Path], seen: Sequence[Seen]) -> list[Candidate]:
    """Return the images, those first of which the model is least sure and which are least like the reference.

    Both orders count the same: an image's place is the sum of its two ranks.
    """
    mean, std = profile.inputs.mean(0), profile.inputs.std(0)
    away = np.abs(np.stack([one.inputs for one in seen]) - mean) / np.maximum(std, 1e-3 + 1e-3 * np.abs(mean))
    unlike = away.max(1)
    sampled = task_info(profile.task).sampled  # other tasks have a number here that is no confidence
    sure = np.array([one.confidence if sampled and one.confidence is not None else 1.0 for one in seen])
    # The same distance for all, as another camera's size gives, must not decide.
    order = np.argsort(_ranks(sure) + _ranks(-unlike), kind="stable")
    features = away.argmax(1)
    return [Candidate(paths[i], float(sure[i]), float(unlike[i]), INPUT_FEATURES[features[i]]) for i in order]


def concerns(profile: Profile, seen: Sequence[Seen]) -> list[Concern]:
    """Return the classes of which the model is less sure now, or which it sees half as much or twice as often."""
    mixes = np.stack([one.mix for one in seen if one.mix is not None])
    by_class = np.stack([one.by_class for one in seen if one.by_class is not None])
    now, before = mixes.mean(0), profile.mix.mean(0)
    sure = confidence_by_class(mixes, by_class)
    scored = []
    for i, name in enumerate(profile.classes):
        lost = profile.by_class[i] - sure[i]
        ratio = (now[i] + 1e-4) / (before[i] + 1e-4)
        if lost > 0.05 or not 0.5 <= ratio <= 2:
            concern = Concern(name, float(before[i]), float(now[i]), float(profile.by_class[i]), float(sure[i]))
            scored.append((float(np.nan_to_num(lost)) + 0.1 * abs(math.log(ratio)), concern))
    return [concern for _, concern in sorted(scored, key=lambda pair: -pair[0])]


def write(out: Path, report: Report, profile: Profile, seen: Sequence[Seen], predictor: Predictor) -> None:
    """Write the report in the format of the file's suffix: `.html`, `.json` or `.prom`.

    Raises:
        DriftError: The suffix is another.
    """
    check_suffix(out)
    if out.suffix == ".prom":
        text = prometheus(report.drift)
    elif out.suffix == ".json":
        text = json.dumps(_json(report), indent=2) + "\n"
    else:
        text = page(report, profile, seen, predictor)
    write_text(out, text)


def check_suffix(out: Path) -> None:
    """Raise a `DriftError` where `out` is no file that `write` can write."""
    if out.suffix not in _FORMATS:
        raise DriftError(f"{out}: its suffix tells no format; give a name that ends in {', '.join(_FORMATS)}")


def page(report: Report, profile: Profile, seen: Sequence[Seen], predictor: Predictor) -> str:
    """Return the report as one HTML file that needs nothing else."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["percent"] = _percent
    numbers = {name: _column(profile, seen, name) for name in (*INPUT_FEATURES, profile.watched[1])}
    charts = {name: _bars(*pair) for name, pair in numbers.items() if pair is not None}
    shown = report.candidates[:SHOWN_IMAGES] if report.label else ()
    palette = predictor.config.palette
    return environment.from_string(TEMPLATE.read_text()).render(
        report=report,
        drift=report.drift,
        meanings=meanings(profile.task),
        watched=profile.watched,
        part=task_info(profile.task).part,
        sampled=task_info(profile.task).sampled,
        charts=charts,
        classes=_class_rows(report.drift, palette),
        pictures=[(c, _thumbnail(c.path, predictor)) for c in shown],
        reference=profile.images,
    )


def _class_rows(drift: Drift, palette: Sequence[Sequence[int]]) -> list[dict[str, Any]]:
    most = max([max(pair) for pair in drift.mix.values()], default=1.0)
    return [
        {
            "name": name,
            "color": "#{:02x}{:02x}{:02x}".format(*color),
            "before": before,
            "now": now,
            "wide_before": 100 * before / most,
            "wide_now": 100 * now / most,
        }
        for (name, (before, now)), color in zip(drift.mix.items(), palette, strict=True)
    ]


def _column(profile: Profile, seen: Sequence[Seen], name: str) -> tuple[np.ndarray, np.ndarray] | None:
    if name == profile.watched[1]:
        now = np.array([one.confidence for one in seen], dtype=float)
        return (profile.confidence, now) if np.isfinite([*profile.confidence, *now]).all() else None
    index = INPUT_FEATURES.index(name)
    return profile.inputs[:, index], np.array([one.inputs[index] for one in seen])


def _bars(before: np.ndarray, now: np.ndarray) -> dict[str, Any]:
    """Return two histograms over the same bins as points of an SVG's polygons, 240 x 56, with the range."""
    low, high = float(min(before.min(), now.min())), float(max(before.max(), now.max()))
    if high - low < 1e-9:
        low, high = low - 0.5, high + 0.5
    shares = [np.histogram(v, SHOWN_BINS, (low, high))[0] / len(v) for v in (before, now)]
    most = max(float(share.max()) for share in shares)
    return {"low": low, "high": high, "before": _steps(shares[0] / most), "now": _steps(shares[1] / most)}


def _steps(heights: np.ndarray) -> str:
    wide = 240 / len(heights)
    points = ["0,56"]
    for i, height in enumerate(heights):
        y = 56 - 54 * float(height)
        points += [f"{i * wide:.1f},{y:.1f}", f"{(i + 1) * wide:.1f},{y:.1f}"]
    return " ".join([*points, "240,56"])


def _thumbnail(path: Path, predictor: Predictor) -> dict[str, str]:
    """Return the image and the prediction over it, as data addresses."""
    image = predictor.pixels(path)
    shown = view(image)
    mixed = predictor.task.overlay(shown, predictor.predict(image), predictor.config.palette, 0.55)
    return {"image": _data_address(shown), "overlay": _data_address(mixed)}


def _data_address(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    held = io.BytesIO()
    picture.save(held, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(held.getvalue()).decode()


def _json(report: Report) -> dict[str, Any]:
    drift = report.drift
    return {
        "verdict": drift.verdict,
        "drifted": bool(drift.drifted),
        "images": drift.images,
        "alpha": drift.alpha,
        "features": [_finite(dataclasses.asdict(finding)) for finding in drift.findings],
        "class_mix": {name: {"reference": before, "now": now} for name, (before, now) in drift.mix.items()},
        "classes_to_look_at": [_finite(dataclasses.asdict(concern)) for concern in report.concerns],
        "label_first": [str(candidate.path) for candidate in report.candidates[: report.label]],
        "commands": report.commands if report.label else [],
        "problems": list(report.problems),
    }


def _finite(values: dict[str, Any]) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _ranks(values: np.ndarray) -> np.ndarray:
    """Return each value's place in ascending order; equal ones share it."""
    return np.searchsorted(np.sort(values), values, side="left")


def _percent(fraction: float) -> str:
    return "–" if not math.isfinite(fraction) else f"{100 * fraction:.1f} %"
