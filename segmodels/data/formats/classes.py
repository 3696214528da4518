"""The classes of somebody's own data, as a small file beside the images says.

    classes.txt      `name`, `name r g b` or `r g b name` a line; `0: name` with the ids of labels; `#` starts a comment
    classes.csv      the same with commas, semicolons or tabs, quoted or not, with or without a header, whose names then
                     say which column is what: name, id, r, g, b
    classes.json     ["sky", …] or {"sky": [128, 128, 128], …} or [{"name": "sky", "color": [128, 128, 128], "id": 0}]

Without ids the first line is id 0. A class named void, ignore, unlabelled or unlabeled is no class: its pixels count
nowhere. Several lines of one name are one class.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmodels.data.folder import MAX_CLASSES, DatasetError
from segmodels.data.palette import from_hex
from segmodels.errors import brief
from segmodels.files import ContentError, read_json, read_text

Color = tuple[int, int, int]

LIMIT = 1 << 20  # bytes
FILES = (
    "classes.json", "classes.txt", "classes.csv", "label_colors.txt", "class_dict.csv", "class_dict_seg.csv",
    "labels.txt", "_classes.csv", "class_names.txt",
)  # fmt: skip
HEADER = {
    "name": "name", "class": "name", "class_name": "name", "label": "name", "category": "name", "names": "name",
    "id": "id", "index": "id", "value": "id", "idx": "id", "class_id": "id", "label_id": "id", "pixel value": "id",
    "r": "r", "red": "r", "g": "g", "green": "g", "b": "b", "blue": "b",
}  # fmt: skip
VOID_NAMES = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})


@dataclass(frozen=True)
class NamedClass:
    """A line of the file: a name, and its colour and the id of its pixels where these are given."""

    name: str
    color: Color | None = None
    value: int | None = None

    @property
    def is_void(self) -> bool:
        return self.name.lower() in VOID_NAMES


def find(root: Path) -> Path | None:
    """Return the file of classes in `root` or in the folder above it."""
    return next((folder / name for folder in (root, root.parent) for name in FILES if (folder / name).is_file()), None)


def read(path: Path) -> list[NamedClass]:
    """Return the classes in label order.

    Raises:
        DatasetError: The file is not of the shape above, or has a name or a colour twice.
    """
    try:
        classes = _from_json(read_json(path, LIMIT)) if path.suffix == ".json" else _from_lines(path)
    except ContentError as error:
        raise DatasetError(str(error)) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"{path}: not a list of classes ({brief(error)}); write `name r g b` a line") from None
    if not classes:
        raise DatasetError(f"{path}: names no class; write `name` or `name r g b` a line")
    if len(classes) > MAX_CLASSES:
        raise DatasetError(f"{path}: names {len(classes)} classes; labels of 8 bits hold at most {MAX_CLASSES}")
    if len({c.value is None for c in classes}) > 1:
        odd = next(c.name for c in classes if c.value is None)
        raise DatasetError(f"{path}: {odd} has no id, and others have one; give every class its id, or none")
    _refuse_twice(path, "class", [c.name for c in classes if c.value is None])
    _refuse_twice(path, "id", [c.value for c in classes if c.value is not None])
    _refuse_twice(path, "colour", [c.color for c in classes if c.color is not None and not c.is_void])
    return classes


def _refuse_twice(path: Path, what: str, values: Sequence[object]) -> None:
    twice = next((v for v in values if values.count(v) > 1), None)
    if twice is not None:
        raise DatasetError(f"{path}: {what} {twice} stands twice; every class needs its own")


def _from_json(raw: Any) -> list[NamedClass]:
    if isinstance(raw, dict):
        listed = next((raw[key] for key in ("classes", "categories", "labels") if isinstance(raw.get(key), list)), None)
        if listed is None and raw and all(str(key).isdecimal() and isinstance(raw[key], str) for key in raw):
            return [NamedClass(raw[key], None, int(key)) for key in raw]
        if listed is None and raw and all(isinstance(value, int) for value in raw.values()):
            return [NamedClass(key, None, int(raw[key])) for key in raw]
        raw = listed if listed is not None else [{"name": k, "color": raw[k]} for k in raw]
    return [NamedClass(entry) if isinstance(entry, str) else _from_entry(entry) for entry in raw]


def _from_entry(entry: Any) -> NamedClass:
    numbers = [entry[key] for key in ("id", "index", "value") if entry.get(key) is not None]
    name = next(entry[key] for key in ("name", "class", "label") if key in entry)
    return NamedClass(str(name), _color(entry.get("color")), int(numbers[0]) if numbers else None)


def _from_lines(path: Path) -> list[NamedClass]:
    lines = (line.partition("#")[0].strip() for line in read_text(path, LIMIT).splitlines())
    kept = [line for line in lines if line]
    if not kept:
        return []
    separator = next((mark for mark in (",", ";", "\t") if all(mark in line for line in kept)), None)
    rows = list(csv.reader(kept, delimiter=separator, skipinitialspace=True)) if separator else [[k] for k in kept]
    rows = [[cell.strip() for cell in row] for row in rows]
    columns = [HEADER.get(cell.lower()) for cell in rows[0]]
    if separator and len(columns) > 1 and all(columns) and len(set(columns)) == len(columns):
        return [_from_columns(dict(zip(columns, row, strict=True))) for row in rows[1:]]
    if separator is None and re.fullmatch(r"(class(es)?|names?)(\W+r\W+g\W+b)?", kept[0], re.IGNORECASE):
        rows = rows[1:]
    if any(columns) and separator:
        raise ValueError(f"its first line {kept[0]!r} is a header in part; name each column id, name, r, g or b")
    return _numbered([_from_line(" ".join(cell for cell in row if cell)) for row in rows])


def _from_columns(row: dict[str | None, str]) -> NamedClass:
    color = _color([row["r"], row["g"], row["b"]]) if {"r", "g", "b"} <= row.keys() else None
    return NamedClass(row["name"], color, int(row["id"]) if "id" in row else None)


def _numbered(classes: list[NamedClass]) -> list[NamedClass]:
    """Return `0: road` or `0 road`, where every line begins so, as class `road` with the id 0."""
    matches = [re.fullmatch(r"(\d+)\s*[:=.)]?\s+(\D.*)|(\d+)[:=](.+)", c.name) for c in classes]
    if not classes or not all(matches):
        return classes
    return [
        NamedClass((m[2] or m[4]).strip(), c.color, int(m[1] or m[3]))
        for m, c in zip(matches, classes, strict=True)
        if m
    ]


def _from_line(line: str) -> NamedClass:
    numbers = r"(\d+)[\s,]+(\d+)[\s,]+(\d+)"
    if match := re.fullmatch(rf"(.*?\S)[\s,:]+{numbers}", line):
        return NamedClass(match[1].strip(), _color(match.groups()[1:]))
    if match := re.fullmatch(rf"{numbers}[\s,]+(.*)", line):
        return NamedClass(match[4].strip(), _color(match.groups()[:3]))
    return NamedClass(line.rstrip(","))


def _color(value: Any) -> Color | None:
    if value is None:
        return None
    red, green, blue = from_hex(value) if isinstance(value, str) else (int(v) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"colour {red} {green} {blue} is outside 0..255")
    return red, green, blue
