"""Evaluating a model folder on a split: quality at the label's full resolution, speed, and pictures."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from segmodels import visualize
from segmodels.checkpoint import ModelConfig, load_model
from segmodels.data.dataset import DatasetError, DatasetInfo, Sample, read_image, read_label, replace_folder
from segmodels.data.transforms import Decoded, EvaluationSet, normalize, resize_image
from segmodels.drift.profile import PROFILE_FILE, build_profile, describe_prediction, spread
from segmodels.inference import augmented, channels_last, full_resolution, monte_carlo, refined
from segmodels.metrics import (
    BoundaryF1,
    CalibrationError,
    calibration_error,
    class_accuracy,
    class_iou,
    class_mean,
    confusion_matrix,
    scores,
)
from segmodels.per_image import PER_IMAGE_FILE, ImageCounts, PerImage
from segmodels.progress import Heartbeat
from segmodels.registry import count_parameters, on_meta
from segmodels.settings import EvaluateSettings

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
    seed: int = 0,
) -> Quality:
    """Evaluates a model folder on `test` (on `val` where there is no test split, saying so) and writes `out`.

    `out` holds `metrics.json`, `speed.json`, `per_class.csv`, `confusion.csv`, `per_image.npz`, `profile.json`
    (`segmodels.drift`), `pictures/` and `predictions/`.
    """
    trained, data, out = Path(trained), Path(data), Path(out)
    settings = settings or EvaluateSettings()
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model, config = load_model(trained, device)
    channels_last(model)
    info = DatasetInfo.read(data)
    if info.class_names != config.class_names:
        raise DatasetError(
            f"{data}: its classes ({', '.join(info.class_names)}) are not those {trained} was trained on "
            f"({', '.join(config.class_names)})"
        )
    split = info.eval_split
    if split != "test":
        print(f"{info.name} has no test labels; the figures are those of its val split", flush=True)
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "predictions").mkdir(parents=True)
    (part / "pictures").mkdir()
    torch.manual_seed(seed)
    quality, listed = _measure(model, config, data, split, settings, part)
    _write_quality(part, config, quality)
    profile = build_profile(data, config.class_names, split, quality.predicted, _as_predicted(settings))
    profile.write(part / PROFILE_FILE)
    size = settings.image_size or config.image_size or read_label(listed[0].label).shape
    _write_speed(part, model, config, _network_input(listed[0], config, (size[0], size[1])))
    _write_pictures(part, config, listed, quality.image_miou)
    replace_folder(part, out)
    return quality


@torch.inference_mode()
def _measure(
    model: nn.Module, config: ModelConfig, data: Path, split: str, settings: EvaluateSettings, part: Path
) -> tuple[Quality, list[Sample]]:
    """Runs the split through the model; every prediction goes to `predictions/` first, pictures need some of them."""
    classes = len(config.classes)
    device = next(model.parameters()).device
    decoded = Decoded(data, split, size=settings.image_size or config.image_size, cache_gb=0.0, resize_labels=False)
    total = np.zeros((classes, classes), np.int64)
    image_miou: list[float] = []
    counts: list[ImageCounts] = []
    predicted: list[tuple[np.ndarray, float, np.ndarray]] = []
    kept = set(spread(len(decoded)))
    batches = EvaluationSet(decoded, settings.batch_size, config.mean, config.std)
    heartbeat = Heartbeat(lambda: f"evaluated {len(counts)} of {len(decoded)} images")
    for images, labels in heartbeat.around(batches[i] for i in range(len(batches))):
        images = images.to(device, memory_format=torch.channels_last)
        probs = full_resolution(_probabilities(model, images, settings), labels.shape[-2:])
        if settings.crf is not None:
            here = decoded.samples[len(counts) : len(counts) + len(labels)]
            probs = refined(probs, [read_image(sample.image) for sample in here], settings.crf)
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
    each = PerImage.of(config.class_names, counts)
    ece = float(calibration_error(each.calibration.sum(0)))
    quality = Quality(split, total, _column_means(each.boundary_f1), ece, image_miou, each, predicted)
    return quality, decoded.samples


def _probabilities(model: nn.Module, images: Tensor, settings: EvaluateSettings) -> Tensor:
    if settings.mc_samples:
        return monte_carlo(model, images, settings.mc_samples)[0]
    return augmented(
        model,
        images,
        flip=settings.flip,
        scales=settings.scales,
        window=settings.window,
        stride=settings.stride,
    )


def _column_means(values: np.ndarray) -> np.ndarray:
    """The mean of each column `[N, C]` over the images that have the class; NaN where none has it."""
    known = np.isfinite(values)
    total = np.where(known, values, 0.0).sum(0)
    return np.divide(total, known.sum(0), out=np.full(values.shape[1], np.nan), where=known.any(0))


def _as_predicted(settings: EvaluateSettings) -> dict[str, Any]:
    """The keywords of a `Predictor` that predicts as the evaluation does."""
    chosen = dataclasses.asdict(settings)
    return {key: chosen[key] for key in ("flip", "scales", "window", "stride", "image_size", "crf")}


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


def _network_input(sample: Sample, config: ModelConfig, size: tuple[int, int]) -> Tensor:
    """One image as the network takes it, float32 `[1, channels, height, width]`."""
    pixels = resize_image(torch.tensor(read_image(sample.image)).permute(2, 0, 1), size)
    return normalize(pixels[None], torch.tensor(config.mean), torch.tensor(config.std))


def _write_speed(part: Path, model: nn.Module, config: ModelConfig, image: Tensor) -> None:
    device = next(model.parameters()).device
    size = (image.shape[-2], image.shape[-1])
    speed = {
        "parameters": count_parameters(model),
        "gflops": round(gflops(config, size), 3),
        "ms_per_image": round(milliseconds(model, image), 2),
        "image_size": list(size),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "threads": torch.get_num_threads(),
    }
    (part / "speed.json").write_text(json.dumps(speed, indent=2) + "\n")


def gflops(config: ModelConfig, size: tuple[int, int]) -> float:
    """Floating-point operations (two for a multiply-add) of one image of (height, width), in 1e9."""
    with on_meta():
        model = config.build().eval()
        image = torch.empty(1, config.in_channels, *size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(image)
    return counter.get_total_flops() / 1e9


@torch.inference_mode()
def milliseconds(model: nn.Module, image: Tensor, repeat: int = 7) -> float:
    """Median wall time of one image through the network, after two warm-up passes.

    Args:
        model: The network, in evaluation mode.
        image: A real image, normalised, `[1, channels, H, W]`: cascades, point refinement and CRFs take longer where
            there is more to see, and noise is the most.
        repeat: Passes of which the median is taken.
    """
    device = next(model.parameters()).device
    image = image.to(device, memory_format=torch.channels_last)
    times = []
    for turn in range(repeat + 2):
        _synchronize(device)
        started = time.perf_counter()
        model(image)
        _synchronize(device)
        if turn >= 2:
            times.append(time.perf_counter() - started)
    return 1000 * statistics.median(times)


def _write_pictures(part: Path, config: ModelConfig, listed: Sequence[Sample], image_miou: Sequence[float]) -> None:
    """Best, median and worst image as image | truth | prediction | error; then all but six predictions go."""
    order = np.argsort(image_miou, kind="stable")
    for title, index in (("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])):
        sample = listed[index]
        image, truth = read_image(sample.image), read_label(sample.label)
        prediction = read_label(part / "predictions" / f"{sample.id}.png")
        picture = visualize.panel(
            [
                image,
                visualize.colorize(truth, config.palette),
                visualize.colorize(prediction, config.palette),
                visualize.error_map(truth, prediction),
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


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _blank(value: float) -> float | str:
    return float(value) if np.isfinite(value) else ""
