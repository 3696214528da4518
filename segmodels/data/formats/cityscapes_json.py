"""Polygons of Cityscapes, from which its labels were made: `*_gtFine_polygons.json`.

What counts is cityscapesScripts, `preparation/json2labelImg.py` and `json2instanceImg.py`: objects are drawn in their
order, each over those before it; a name that ends in `group` is that of its members, which are not told apart; a
licence plate is not drawn. Names: `helpers/labels.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, DatasetError
from segmodels.data.formats.decode import Shape, drawn, ring
from segmodels.data.formats.layout import Decoder
from segmodels.errors import brief
from segmodels.files import ContentError, read_json

# Names that are not trained.
VOID = frozenset(
    {"unlabeled", "ego vehicle", "rectification border", "out of roi", "static", "dynamic", "ground", "parking"}
    | {"rail track", "guard rail", "bridge", "tunnel", "polegroup", "caravan", "trailer"}
)
UNDRAWN = "license plate"
THINGS = frozenset({"person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle"})
GROUP = "group"


def decoders(path: Path, index: Mapping[str, int]) -> tuple[Decoder, Decoder]:
    """Return what draws the classes of a file, and what draws the numbers of its objects.

    Args:
        path: The file.
        index: Class -> index.
    """

    def objects() -> np.ndarray:
        height, width = _size(path)
        out, number = np.zeros((height, width), np.int32), 0
        for shape, thing in _shapes(path, index):
            number += thing
            out[shape.inside(height, width)] = number if thing else 0  # what lies in front hides it
        return out

    def shapes() -> list[Shape]:
        return [shape for shape, _ in _shapes(path, index)]

    return drawn(partial(_size, path), shapes, IGNORE_INDEX, list(index)), objects


def _size(path: Path) -> tuple[int, int]:
    content = _content(path)
    return int(content["imgHeight"]), int(content["imgWidth"])


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content = read_json(path)
    except ContentError as error:
        raise DatasetError(str(error)) from None
    if not (isinstance(content, dict) and {"imgHeight", "imgWidth", "objects"} <= content.keys()):
        raise DatasetError(f"{path}: has no imgHeight, imgWidth and objects; restore it")
    return content


def _shapes(path: Path, index: Mapping[str, int]) -> list[tuple[Shape, bool]]:
    """Return what is drawn, and whether each is an object that is told apart."""
    shapes = []
    for entry in _content(path)["objects"]:
        name, grouped = str(entry["label"]), False
        if name not in index and name not in VOID and name.endswith(GROUP):
            name, grouped = name.removesuffix(GROUP), True
        if entry.get("deleted") or name == UNDRAWN:
            continue
        if name not in index and name not in VOID:
            raise DatasetError(f"{path}: label {name!r} is none of Cityscapes'; correct it")
        try:
            shape = Shape(index.get(name, IGNORE_INDEX), (ring(entry["polygon"]),))
            shapes.append((shape, name in THINGS and not grouped))
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: an object of {name!r} is damaged ({brief(error)})") from None
    return shapes
