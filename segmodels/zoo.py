"""The architectures in figures, at their defaults with 11 classes: `zoo.csv`, which `benchmarks/zoo.py` writes.

The file is read without torch, so that a list of the architectures is there at once; a test holds it to the registry.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("zoo.csv")
CLASSES = 11
# The size at which architectures are compared, (height, width): CamVid's.
SIZE = (360, 480)


@dataclass(frozen=True)
class Entry:
    """An architecture in figures.

    Attributes:
        name: As in the registry; so are paper, year and task.
        parameters: In inference.
        parameters_training: With what training alone uses: auxiliary heads.
        gflops: 1e9 floating-point operations of one image; a multiply-add is two.
        milliseconds: Of one image through the network, float32; None where it was not measured.
        machine: Where the milliseconds were measured: processor, threads, version of torch.
        date: When, YYYY-MM-DD.
    """

    name: str
    paper: str
    year: int
    task: str
    parameters: int
    parameters_training: int
    gflops: float
    milliseconds: float | None = None
    machine: str = ""
    date: str = ""


def read(file: Path = FILE) -> dict[str, Entry]:
    """Name -> entry, in the file's order."""
    with open(file, newline="", encoding="utf-8") as lines:
        return {row["name"]: _entry(row) for row in csv.DictReader(lines)}


def write(entries: Iterable[Entry], file: Path = FILE) -> None:
    """Writes the file, sorted by name, completely or not at all."""
    part = file.with_name(file.name + ".part")
    with open(part, "w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name))
    os.replace(part, file)


def computed(name: str, classes: int = CLASSES, options: dict[str, Any] | None = None) -> Entry:
    """What the code gives now, counted without memory; milliseconds are left open.

    Args:
        name: Of the architecture.
        classes: Number of classes.
        options: Its keywords, where they differ from the defaults.
    """
    from segmodels.checkpoint import ModelConfig
    from segmodels.data.dataset import ClassInfo
    from segmodels.evaluation import gflops
    from segmodels.registry import count_parameters, full_size, model_info

    card, model = model_info(name), full_size(name, classes, **(options or {}))
    config = ModelConfig(name, tuple(ClassInfo(str(i), (0, 0, 0)) for i in range(classes)), options or {})
    return Entry(
        name=name,
        paper=card.paper,
        year=card.year,
        task=card.task,
        parameters=count_parameters(model),
        parameters_training=count_parameters(model, training=True),
        gflops=round(gflops(config, SIZE), 3),
    )


def measured(name: str, classes: int = CLASSES, repeat: int = 3) -> float:
    """Milliseconds of one rendered street on this machine, on its GPU where there is one."""
    import torch

    from segmodels.checkpoint import IMAGENET_MEAN, IMAGENET_STD
    from segmodels.data.streets import render
    from segmodels.data.transforms import normalize
    from segmodels.evaluation import milliseconds
    from segmodels.inference import channels_last
    from segmodels.registry import create_model

    model = channels_last(create_model(name, classes).eval())
    pixels = torch.from_numpy(render(0, "test", 0, height=SIZE[0], width=SIZE[1]).image).permute(2, 0, 1)[None]
    image = normalize(pixels, torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD))
    return milliseconds(model.cuda() if torch.cuda.is_available() else model, image, repeat=repeat)


def _entry(row: dict[str, str]) -> Entry:
    return Entry(
        name=row["name"],
        paper=row["paper"],
        year=int(row["year"]),
        task=row["task"],
        parameters=int(row["parameters"]),
        parameters_training=int(row["parameters_training"]),
        gflops=float(row["gflops"]),
        milliseconds=float(row["milliseconds"]) if row["milliseconds"] else None,
        machine=row["machine"],
        date=row["date"],
    )
