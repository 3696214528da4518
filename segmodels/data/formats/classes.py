"""The classes of somebody's own data, as a small file beside the images says.

    classes.txt      `name`, `name r g b` or `r g b name` a line; commas do as well; `#` starts a comment
    classes.json     ["sky", …] or {"sky": [128, 128, 128], …} or [{"name": "sky", "color": [128, 128, 128]}, …]

A class named void, ignore, unlabelled or unlabeled is no class: its pixels count nowhere.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from segmodels.data.folder import MAX_CLASSES, DatasetError
from segmodels.errors import brief
from segmodels.files import ContentError, read_json, read_text

Color = tuple[int, int, int]

LIMIT = 1 << 20  # bytes
FILES = ("classes.json", "classes.txt", "label_colors.txt", "class_dict.csv")
VOID_NAMES = frozenset({"void", "ignore", "ignored", "unlabelled", "unlabeled"})


@dataclass(frozen=True)
class NamedClass:
    """A line of the file: a name, and its colour where one is given."""

    name: str
    color: Color | None = None

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
    _refuse_twice(path, "class", [c.name for c in classes])
    _refuse_twice(path, "colour", [c.color for c in classes if c.color is not None and not c.is_void])
    return classes


def _refuse_twice(path: Path, what: str, values: Sequence[object]) -> None:
    twice = next((v for v in values if values.count(v) > 1), None)
    if twice is not None:
        raise DatasetError(f"{path}: {what} {twice} stands twice; every class needs its own")


def _from_json(raw: Any) -> list[NamedClass]:
    if isinstance(raw, dict):
        raw = raw["classes"] if isinstance(raw.get("classes"), list) else [{"name": k, "color": raw[k]} for k in raw]
    return [
        NamedClass(entry) if isinstance(entry, str) else NamedClass(str(entry["name"]), _color(entry.get("color")))
        for entry in raw
    ]


def _from_lines(path: Path) -> list[NamedClass]:
    lines = (line.partition("#")[0].strip() for line in read_text(path, LIMIT).splitlines())
    return [_from_line(line) for line in lines if line and not re.match(r"name\W+r\W+g\W+b$", line)]


def _from_line(line: str) -> NamedClass:
    numbers = r"(\d+)[\s,]+(\d+)[\s,]+(\d+)"
    if match := re.fullmatch(rf"(.*?)[\s,:]+{numbers}", line):
        return NamedClass(match[1].strip(), _color(match.groups()[1:]))
    if match := re.fullmatch(rf"{numbers}[\s,]+(.*)", line):
        return NamedClass(match[4].strip(), _color(match.groups()[:3]))
    return NamedClass(line.rstrip(","))


def _color(value: Any) -> Color | None:
    if value is None:
        return None
    red, green, blue = (int(v) for v in value)
    if not all(0 <= v <= 255 for v in (red, green, blue)):
        raise ValueError(f"colour {red} {green} {blue} is outside 0..255")
    return red, green, blue
