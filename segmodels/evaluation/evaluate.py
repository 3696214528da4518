"""Evaluating a model folder on a split: quality at the label's full resolution, speed, and pictures."""

from __future__ import annotations

import csv
import json
from collections import deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from segmodels import tasks
from segmodels.catalog.registry import count_parameters
from segmodels.data.bands import Bands, view
from segmodels.data.folder import DatasetError, DatasetInfo, Sample
from segmodels.data.loading import Decoded, same_size
from segmodels.data.targets import target
from segmodels.drift.profile import PROFILE_FILE, build_profile, spread
from segmodels.evaluation.speed import gflops, prediction_milliseconds
from segmodels.files import replaced
from segmodels.inference.predictor import Predictor, predictions
from segmodels.progress import Heartbeat
from segmodels.runtime import available_cores
from segmodels.settings.schema import EvaluateSettings
from segmodels.tasks.base import Counts, Prediction, Task
from segmodels.tasks.per_image import PER_IMAGE_FILE, PerImage
from segmodels.tasks.pictures import panel

# Test images whose predictions are kept, so that a report can show the same ones through every model.
KEPT_PREDICTIONS = 6
# What `Task.describe` gives of a prediction.
Described = tuple[np.ndarray, float | None, np.ndarray]


@dataclass(frozen=True)
class Quality:
    """What `evaluate` measured.

    Attributes:
        split: The split that was evaluated.
        metrics: The content of `metrics.json`.
        matrix: Pixels of each true part (class) predicted as each part, int64 `[K, K]`, rows truth.
        own: How good each image is by itself, more is better, in the order of the split.
        per_image: What each image counted.
        predicted: What `segmodels.drift` keeps of the predictions, of images spread evenly over the split.
    """

    split: str
    metrics: Mapping[str, Any]
    matrix: np.ndarray
    own: list[float]
    per_image: PerImage
    predicted: list[Described]


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
    if config.classes and info.class_names != config.class_names:
        raise DatasetError(
            f"{data}: its classes ({', '.join(info.class_names)}) are not those {trained} was trained on "
            f"({', '.join(config.class_names)})"
        )
    if Bands.of(info.image) != config.bands:
        raise DatasetError(
            f"{data}: its images are read as {Bands.of(info.image)}, and {trained} was trained on {config.bands}; "
            "download the data again with the same data.bands and data.scale"
        )
    split = info.eval_split
    if split != "test":
        print(f"{info.name} has no test labels; the figures are those of its val split", flush=True)
    with replaced(out) as part:
        (part / "predictions").mkdir(parents=True)
        (part / "pictures").mkdir()
        quality, listed = _measure(predictor, data, split, settings, part)
        _write_quality(part, predictor.task, quality)
        profile = build_profile(data, config, split, quality.predicted, settings.as_json())
        profile.write(part / PROFILE_FILE)
        _write_speed(part, predictor, predictor.pixels(listed[0].image))
        _write_pictures(part, predictor, listed, quality.own, info)
    return quality


def _measure(
    predictor: Predictor, data: Path, split: str, settings: EvaluateSettings, part: Path
) -> tuple[Quality, list[Sample]]:
    """Run the split through the model, and write the predictions that are kept to `predictions/`."""
    task, parts = predictor.task, predictor.config.parts
    decoded = Decoded(data, split, needs=task.info.needs)
    stored, kind = DatasetInfo.read(data).targets.get(task.info.needs[0], {}), target(task.info.needs[0])
    total = np.zeros((len(parts), len(parts)), np.int64)
    counts: list[Counts] = []
    predicted: list[Described] = []
    watched, kept = set(spread(len(decoded))), set(spread(len(decoded), KEPT_PREDICTIONS))
    heartbeat = Heartbeat(lambda: f"evaluated {len(counts)} of {len(decoded)} images")

    def look(index: int, prediction: Prediction, truth: Mapping[str, Tensor]) -> tuple[Counts, Described | None]:
        """Count an image, and keep what is kept of it."""
        if index in kept:
            kind.write(prediction.value, part / "predictions" / f"{decoded.samples[index].id}.png", stored)
        described = task.describe(prediction, parts) if index in watched else None
        return task.count(prediction, truth, parts, settings), described

    threads, ahead = available_cores(), images_counted_beside(predictor.device)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[tuple[Counts, Described | None]]] = deque()

        def take(left: int) -> None:
            while len(waiting) > left:
                count, described = waiting.popleft().result()
                counts.append(count)
                predicted.extend([described] if described is not None else [])

        for batch in heartbeat.around(same_size(decoded.samples, settings.batch_size)):
            given = list(pool.map(decoded.__getitem__, batch))
            maps = predictor.batch_maps([sample["image"].permute(1, 2, 0).numpy() for sample in given])
            for index, prediction, truth in zip(batch, predictions(*task.decide(maps)), given, strict=True):
                waiting.append(pool.submit(look, index, prediction, truth))
            take(ahead)
        take(0)
    for one in counts:
        total += one.confusion
    named = DatasetInfo.read(data).sequences.get(split, {})
    sequence = {frame: name for name, frames in named.items() for frame in frames}
    ids = [sample.id for sample in decoded.samples]
    names = predictor.config.part_names
    each = PerImage.of(task.info.name, names, ids, counts, [sequence.get(one, "") for one in ids])
    metrics = {"split": split, "images": len(counts), **tasks.named(task.info.name)}
    metrics |= task.metrics(each.measured, total)
    return Quality(split, metrics, total, [one.own for one in counts], each, predicted), decoded.samples


def images_counted_beside(device: torch.device) -> int:
    """Return how many predicted images may wait to be counted while the next ones are predicted.

    A network on the CPU has all cores itself: none.
    """
    return 4 * available_cores() if device.type == "cuda" else 0


def _write_quality(part: Path, task: Task, quality: Quality) -> None:
    (part / "metrics.json").write_text(json.dumps(quality.metrics, indent=2) + "\n")
    quality.per_image.write(part / PER_IMAGE_FILE)
    _write_csv(part / "per_class.csv", *task.table(quality.per_image.measured, quality.matrix))
    names = quality.per_image.classes.tolist()
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


def _write_pictures(
    part: Path, predictor: Predictor, listed: Sequence[Sample], own: Sequence[float], info: DatasetInfo
) -> None:
    """Write best, median and worst image as image | truth | prediction | error, predicted once more."""
    task, parts = predictor.task, predictor.config.parts
    name = task.info.needs[0]
    kind, stored = target(name), info.targets.get(name, {})
    order = np.argsort(own, kind="stable")
    for title, index in (("worst", order[0]), ("median", order[len(order) // 2]), ("best", order[-1])):
        sample = listed[index]
        truth = task.value(kind.read(sample.targets[name], stored))
        image = predictor.pixels(sample.image)
        prediction = task.value(predictions(*task.decide(predictor.batch_maps([image])))[0].value)
        main = task.info.main
        told = f"prediction, {main.label} {main.show(main.gain(own[index]))}"
        tiles = [view(image), *task.draw([truth, prediction], parts), task.errors(truth, prediction)]
        scale = task.key_picture(truth, parts)
        tiles += [scale] if scale is not None else []
        titles = [sample.id, "truth", told, "error", ""]
        panel(tiles, titles[: len(tiles)]).save(part / "pictures" / f"{title}-{sample.id}.png")


def _write_csv(path: Path, header: list[str], rows: list[list[object]]) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
