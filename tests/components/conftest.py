"""Results of a small run, written by hand: a dataset of stripes, and two models with their evaluation."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.lineage import Lineage, collect
from components.params import Params
from segmodels.data.folder import ClassInfo
from segmodels.data.writer import DatasetWriter
from segmodels.tasks.per_image import PerImage
from segmodels.tasks.pictures import panel
from segmodels.tasks.semantic.pictures import colorize, error_map

CLASSES = (
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("sky", (70, 130, 180)),
    ClassInfo("pole & <sign>", (200, 180, 20)),
)
PALETTE = [c.color for c in CLASSES]
MIOU = {"enet": 0.42, "unet": 0.61}


@dataclass(frozen=True)
class Results:
    """The folders of a run."""

    root: Path
    params: Params
    data: Path
    validation: Path
    models: dict[str, Path]
    evaluations: dict[str, Path]
    lineage: Lineage

    @property
    def folders(self) -> dict:
        names = ("data", "validation", "models", "evaluations")
        return {name: getattr(self, name) for name in names}


def frame(index: int) -> tuple[np.ndarray, np.ndarray]:
    label = np.full((48, 64), 1, np.uint8)
    label[20 + index % 8 :] = 0
    label[8:30, 10 + index : 14 + index] = 2
    label[:2] = 255
    image = np.random.default_rng(index).integers(0, 40, (48, 64, 3), dtype=np.uint8) + np.uint8(60) * (
        label[..., None] % 5
    )
    return image.astype(np.uint8), label


def write_rows(path: Path, rows: list[list]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def write_model(folder: Path, key: str, epochs: int = 5) -> None:
    """A trained model's folder; the weights are a real file of random tensors."""
    import torch
    from safetensors.torch import save_file

    folder.mkdir(parents=True)
    generator = torch.Generator().manual_seed(len(key))
    save_file({"classifier.weight": torch.randn(3, 3, 1, 1, generator=generator)}, folder / "model.safetensors")
    classes = [{"name": c.name, "color": list(c.color)} for c in CLASSES]
    config = {"format": 1, "architecture": key, "options": {}, "backbone": None, "in_channels": 3, "classes": classes}
    config |= {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "image_size": None}
    (folder / "model.json").write_text(json.dumps({**config, "metrics": {"val_miou": 0.6, "epoch": epochs}}))
    rows: list[list[Any]] = [["epoch", "step", "lr", "train_loss", "val_loss", "val_miou", "val_pixel_accuracy"]]
    for epoch in range(1, epochs + 1):
        quality = MIOU[key] * (1 - 0.5**epoch)
        # the second epoch was not validated
        measured: list[Any] = [1.5 / epoch, quality, min(1.0, quality + 0.3)] if epoch != 2 else ["", "", ""]
        rows.append([epoch, epoch * 10, 1e-3 / epoch, 2.0 / epoch, *measured])
    write_rows(folder / "history.csv", rows)
    speed = {"seconds": 12.5, "images_per_second": 40.0, "device": "cpu", "precision": "32"}
    (folder / "speed.json").write_text(json.dumps(speed))


def counts(per_class: dict[str, float | None], boundary_f1: float, images: int = 6, ece: float = 0.05) -> PerImage:
    """The counts of images that are all alike: 1000 pixels of each class that was measured."""
    known = np.array([iou is not None for iou in per_class.values()])
    pixels = np.tile(1000 * known, (images, 1))
    hits = np.tile([round(1000 * (iou or 0)) for iou in per_class.values()], (images, 1))
    bins = np.zeros((images, 3, 15))
    bins[:, :, 10] = [1000, 700 + 1000 * ece, 700]
    ids, names = np.array([f"{i:04}" for i in range(images)]), np.array(list(per_class))
    boundary = np.where(known, boundary_f1, np.nan) + 0 * hits
    own = {"hits": hits, "truth": pixels, "predicted": hits, "boundary_f1": boundary, "calibration": bins}
    return PerImage(ids, names, own)


def write_evaluation(folder: Path, key: str) -> None:
    (folder / "pictures").mkdir(parents=True)
    (folder / "predictions").mkdir()
    miou = MIOU[key]
    per_class = {"road": miou + 0.2, "sky": miou - 0.2, "pole & <sign>": None if key == "enet" else miou}
    metrics = {"split": "test", "images": 6, "miou": miou, "pixel_accuracy": miou + 0.3, "mean_accuracy": miou + 0.1}
    metrics |= {"fwiou": miou + 0.15, "boundary_f1": miou - 0.1, "ece": 0.05, "per_class": per_class}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    speed: dict[str, Any] = {"parameters": 363_791, "gflops": 1.25, "ms_per_image": 8.5 if key == "enet" else 31.0}
    speed |= {"image_size": [48, 64], "device": "cpu", "threads": 1}
    (folder / "speed.json").write_text(json.dumps(speed))
    (folder / "profile.json").write_text(json.dumps({"format": 1, "classes": [c.name for c in CLASSES]}))
    names = [c.name for c in CLASSES]
    rows = [
        [name, "" if iou is None else iou, "" if iou is None else iou, 0.5, 1000] for name, iou in per_class.items()
    ]
    write_rows(folder / "per_class.csv", [["class", "iou", "accuracy", "boundary_f1", "pixels"], *rows])
    write_rows(folder / "confusion.csv", [["", *names], *([name, 10, 2, 1] for name in names)])
    counts(per_class, miou - 0.1).write(folder / "per_image.npz")
    for index in range(6):
        image, label = frame(index)
        prediction = np.where(label == 255, 1, np.roll(label, 2 if key == "enet" else 1, axis=1)).astype(np.uint8)
        prediction[prediction == 255] = 1
        Image.fromarray(prediction).save(folder / "predictions" / f"{index:04}.png")
        if index < 3:
            tiles = [image, colorize(label, PALETTE), colorize(prediction, PALETTE), error_map(label, prediction)]
            name = ("best", "median", "worst")[index]
            panel(tiles, ["image", "truth", "prediction", "error"]).save(folder / "pictures" / f"{name}-{index:04}.png")


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    """A finished run in `tmp_path/repo`, which is the working directory; tracking goes to its default store."""
    return write_results(tmp_path / "repo", monkeypatch)


@pytest.fixture(scope="module")
def module_results(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Results]:
    """As `results`, one for all tests of a file."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        yield write_results(tmp_path_factory.mktemp("results") / "repo", monkeypatch)


def write_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> Results:
    root.mkdir()
    monkeypatch.chdir(root)
    for name in ("MLFLOW_TRACKING_URI", "GIT_COMMIT", "DVC_STAGE", "KFP_RUN_ID", "IMAGE_DIGEST"):
        monkeypatch.delenv(name, raising=False)
    data = Path("data")
    with DatasetWriter(data, "stripes", CLASSES, source={"path": "stripes", "licence": "CC0"}) as writer:
        for split, count in (("train", 4), ("val", 2), ("test", 6)):
            for index in range(count):
                writer.add(split, f"{index:04}", *frame(index))
    validation = Path("outputs/validation")
    validation.mkdir(parents=True)
    warning = {"check": "rare class", "message": "'pole & <sign>' covers 0.05 % of train", "files": []}
    frequency = {split: {"road": 0.5, "sky": 0.45, "pole & <sign>": 0.05} for split in ("train", "val", "test")}
    content = {"passed": True, "errors": [], "warnings": [warning], "splits": {"train": 4, "val": 2, "test": 6}}
    content |= {"class_frequency": frequency, "void_fraction": {"train": 0.04, "val": 0.04, "test": 0.04}}
    (validation / "validation.json").write_text(json.dumps(content))
    (validation / "validation.html").write_text("<!doctype html><title>Validation</title>")
    models = {key: Path("outputs/models") / key for key in MIOU}
    evaluations = {key: Path("outputs/evaluation") / key for key in MIOU}
    for key in MIOU:
        write_model(models[key], key)
        write_evaluation(evaluations[key], key)
    params = Params.parse({"models": {key: {} for key in MIOU}})
    lineage = collect(params, data, env={"GIT_COMMIT": "c0ffee", "GIT_DIRTY": "false", "DVC_STAGE": "register"})
    return Results(root, params, data, validation, models, evaluations, lineage)
