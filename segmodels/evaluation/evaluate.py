"""Evaluating a model folder on a split: quality at the label's full resolution, speed, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.catalog.registry import count_parameters
from segmodels.data.folder import DatasetError, DatasetInfo, Sample, read_image, read_label
from segmodels.data.loading import Decoded, same_size
from segmodels.drift.profile import PROFILE_FILE, build_profile, describe_prediction, spread
from segmodels.evaluation.speed import gflops, prediction_milliseconds
from segmodels.files import replaced
from segmodels.inference.predictor import Predictor
from segmodels.progress import Heartbeat
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks.semantic import pictures
from segmodels.tasks.semantic.metrics import (
    BoundaryF1,
    CalibrationError,
    calibration_error,
    class_accuracy,
    class_iou,
    class_mean,
    confusion_matrix,
    scores,
)
from segmodels.tasks.semantic.per_image import PER_IMAGE_FILE, ImageCounts, PerImage

# Test images whose predictions are kept, so that a report can show the same ones through every model.
KEPT_PREDICTIONS = 6


@dataclass(frozen=True)
class Quality:
    """What `evaluate` measured; fractions in 0..1.

    Attributes:
        split: The split that was evaluated.
        matrix: Confusion matrix, int64 `[C, C]`, rows truth.
        boundary_f1: Of each class `[C]`; NaN where it has no boundary.
        ece: Expected calibration error.
        image_miou: mIoU of each image alone, in the order of the split.
        per_image: What each image counted.
        predicted: What `segmodels.drift` keeps of the predictions, of images spread evenly over the split.
    """

    split: str
    matrix: np.ndarray
    boundary_f1: np.ndarray
    ece: float
    image_miou: list[float]
    per_image: PerImage
    predicted: list[tuple[np.ndarray, float, np.ndarray]]


def evaluate(
    trained: Path | str,
    data: Path | str,
    out: Path | str,
    settings: EvaluateSettings | None = None,
    *,
    device: str = "auto",
) -> Quality:
    """Evaluate a model folder on `test` (on `val` where there is no test split, saying so) and write `out`.

    `out` holds `metrics.json`, `speed.json`, `per_class.csv`, `confusion.csv`, `per_image.npz`, `profile.json`
    (`segmodels.drift`), `pictures/` and `predictions/`.
    """
    trained, data, out = Path(trained), Path(data), Path(out)
    settings = settings or EvaluateSettings()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    predictor = Predictor(trained, device, settings=settings.prediction)
    config = predictor.config
    info = DatasetInfo.read(data)
    if info.class_names != config.class_names:
        raise DatasetError(
            f"{data}: its classes ({', '.join(info.class_names)}) are not those {trained} was trained on "
            f"({', '.join(config.class_names)})"
        )
    split = info.eval_split
    if split != "test":
        print(f"{info.name} has no test labels; the figures are those of its val split", flush=True)
    with replaced(out) as part:
        (part / "predictions").mkdir(parents=True)
        (part / "pictures").mkdir()
        quality, listed = _measure(predictor, data, split, settings, part)
        _write_quality(part, config, quality)
        profile = build_profile(data, config.class_names, split, quality.predicted, settings.as_json())
        profile.write(part / PROFILE_FILE)
        _write_speed(part, predictor, read_image(listed[0].image))
        _write_pictures(part, config, listed, quality.image_miou)
    return quality


def _measure(
    predictor: Predictor, data: Path, split: str, settings: EvaluateSettings, part: Path
) -> tuple[Quality, list[Sample]]:
    """Run the split through the model; every prediction goes to `predictions/` first, pictures need some of them."""
    config = predictor.config
    classes = len(config.classes)
    decoded = Decoded(data, split)
    total = np.zeros((classes, classes), np.int64)
    image_miou: list[float] = []
    counts: list[ImageCounts] = []
    predicted: list[tuple[np.ndarray, float, np.ndarray]] = []
    kept = set(spread(len(decoded)))
    heartbeat = Heartbeat(lambda: f"evaluated {len(counts)} of {len(decoded)} images")
    for batch in heartbeat.around(same_size(decoded.samples, settings.batch_size)):
        images, labels = zip(*[decoded[index] for index in batch], strict=True)
        probs = predictor.batch_probabilities([image.permute(1, 2, 0).numpy() for image in images])
        confidence, prediction = (x.cpu() for x in probs.max(1))
        prediction = prediction.to(torch.uint8)
        for sure, one, label in zip(confidence, prediction, labels, strict=True):
            if len(counts) in kept:
                predicted.append(describe_prediction(one.numpy(), sure.numpy(), classes))
            sample = decoded.samples[len(counts)]
            Image.fromarray(one.numpy()).save(part / "predictions" / f"{sample.id}.png", compress_level=1)
            boundary, calibration = BoundaryF1(classes, settings.boundary_px), CalibrationError()
            boundary.update(one, label)
            calibration.update(sure, one, label)
            matrix = confusion_matrix(one, label, classes).numpy()
            total += matrix
            image_miou.append(_own_miou(matrix))
            counts.append(ImageCounts.of(sample.id, matrix, boundary.compute(), calibration.sums()))
    named = DatasetInfo.read(data).sequences.get(split, {})
    sequence = {frame: name for name, frames in named.items() for frame in frames}
    each = PerImage.of(config.class_names, counts, [sequence.get(one.id, "") for one in counts])
    ece = float(calibration_error(each.calibration.sum(0)))
    quality = Quality(split, total, _column_means(each.boundary_f1), ece, image_miou, each, predicted)
    return quality, decoded.samples


def _column_means(values: np.ndarray) -> np.ndarray:
    """Return the mean of each column `[N, C]` over the images that have the class; NaN where none has it."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan), where=known.any(0))


def _own_miou(matrix: np.ndarray) -> float:
    """mIoU over the classes that the image's truth has; 0 where it is all void."""
    iou = class_iou(matrix)[matrix.sum(1) > 0]
    return float(iou.mean()) if len(iou) else 0.0


def _write_quality(part: Path, config: ModelConfig, quality: Quality) -> None:
    iou, accuracy = class_iou(quality.matrix), class_accuracy(quality.matrix)
    names = config.class_names
    metrics = {
        "split": quality.split,
        "images": len(quality.image_miou),
        **scores(quality.matrix),
        "boundary_f1": float(class_mean(quality.boundary_f1)),
        "ece": quality.ece,
        "per_class": {name: _number(value) for name, value in zip(names, iou, strict=True)},
    }
    (part / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n")
    quality.per_image.write(part / PER_IMAGE_FILE)
    rows = zip(names, iou, accuracy, quality.boundary_f1, quality.matrix.sum(1), strict=True)
    _write_csv(
        part / "per_class.csv",
        ["class", "iou", "accuracy", "boundary_f1", "pixels"],
        [[name, *[_blank(v) for v in values], int(pixels)] for name, *values, pixels in rows],
    )
    _write_csv(
        part / "confusion.csv",
        ["truth", *names],
        [[name, *row] for name, row in zip(names, quality.matrix.tolist(), strict=True)],
    )


def _write_speed(part: Path, predictor: Predictor, image: np.ndarray) -> None:
    """Write what a prediction of one image costs, with all that evaluation averaged: what is served takes as long."""
    device = predictor.device
    size = predictor.image_size or image.shape[:2]
    speed = {
        "parameters": count_parameters(predictor.model),
        "gflops": round(gflops(predictor.config, (size[0], size[1])), 3),
        "ms_per_image": round(prediction_milliseconds(predictor, image), 2),
        "image_size": [int(side) for side in size],
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
        "prediction": predictor.settings.as_json(),
    }
    (part / "speed.json").write_text(json.dumps(speed, indent=2) + "\n")


def _write_pictures(part: Path, config: ModelConfig, listed: Sequence[Sample], image_miou: Sequence[float]) -> None:
    """Best, median and worst image as image | truth | prediction | error; then all but six predictions go."""
    order = np.argsort(image_miou, kind="stable")
    for title, index in (("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])):
        sample = listed[index]
        image, truth = read_image(sample.image), read_label(sample.label)
        prediction = read_label(part / "predictions" / f"{sample.id}.png")
        picture = pictures.panel(
            [
                image,
                pictures.colorize(truth, config.palette),
                pictures.colorize(prediction, config.palette),
                pictures.error_map(truth, prediction),
            ],
            [f"{sample.id}", "truth", f"prediction, mIoU {100 * image_miou[index]:.1f} %", "error"],
        )
        picture.save(part / "pictures" / f"{title}-{sample.id}.png")
    spread = np.linspace(0, len(listed) - 1, min(KEPT_PREDICTIONS, len(listed)))
    kept = {listed[int(i)].id for i in spread.round()}
    for path in (part / "predictions").iterdir():
        if path.stem not in kept:
            path.unlink()


def _write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _blank(value: float) -> float | str:
    return float(value) if np.isfinite(value) else ""
