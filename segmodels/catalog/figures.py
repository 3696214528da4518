"""The architectures in figures, at their defaults with 11 classes: `figures.csv`, which `benchmarks/figures.py` writes.

The file is read without torch, so that a list of the architectures is there at once; a test holds it to the registry.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from segmodels.files import replaced

FILE = Path(__file__).with_name("figures.csv")
CLASSES = 11
# The size at which architectures are compared, (height, width): CamVid's.
SIZE = (360, 480)


@dataclass(frozen=True)
class Entry:
    """An architecture in figures.

    Attributes:
        name: As in the registry; so are paper, year and tasks.
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
    """Return name -> entry, in the file's order."""
    with open(file, newline="", encoding="utf-8") as lines:
        return {row["name"]: _entry(row) for row in csv.DictReader(lines)}


def write(entries: Iterable[Entry], file: Path = FILE) -> None:
    """Write the file, sorted by name, completely or not at all."""
    with replaced(file) as part, open(part, "w", newline="", encoding="utf-8") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Entry)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(entry) for entry in sorted(entries, key=lambda entry: entry.name))


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
