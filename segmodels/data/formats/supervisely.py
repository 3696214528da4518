"""Supervisely: a project with datasets, an annotation for each image.

developer.supervisely.com, "Supervisely annotation format". Objects are drawn in their order: polygons with holes, and
bitmaps, which are a PNG, deflated or not, in base64, placed at `origin`. Alpha masks count from half of their opacity
on. What the geometries mean: `supervisely/geometry` of github.com/supervisely/supervisely.

    meta.json                       {"classes": [{"title", "shape", "color": "#rrggbb"}]}
    <dataset>/img/0001.jpg
    <dataset>/ann/0001.jpg.json     {"size": {"height", "width"}, "objects": [{"classTitle", "geometryType", …}]}
"""

from __future__ import annotations

import base64
import io
import math
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import Shape, drawn, numbered, placed, ring
from segmodels.data.formats.json_files import split_of
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, paired
from segmodels.data.palette import from_hex
from segmodels.errors import brief
from segmodels.files import ContentError, read_json

LIMIT = 1 << 28
# A bitmap of the largest image that is read, deflated; what inflates to more is refused.
MOST, PNG = 1 << 28, b"\x89PNG"
NO_AREA = frozenset({"point", "graph", "cuboid", "cuboid_2d"})


def _read(root: Path, job: Job) -> Reading:
    meta = root / "meta.json"
    try:
        listed = [ClassInfo(str(c["title"]), from_hex(c.get("color", "#808080"))) for c in read_json(meta)["classes"]]
    except (ContentError, KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{meta}: is not a project's description ({brief(error)})") from None
    classes, undrawn = job.undrawn(listed)
    index = {info.name: place for place, info in enumerate(classes)}

    def samples() -> Iterator[Raw]:
        for folder in sorted(path.parent for path in root.glob("**/img") if path.is_dir()):

            def partner(image: Path, folder: Path = folder) -> Path:
                return folder / "ann" / f"{image.name}.json"

            for image, annotation in paired(image_files(folder / "img"), partner, job, "annotation"):
                size, shapes = partial(_size, annotation), partial(_shapes, annotation, index)
                name = f"{folder.relative_to(root).as_posix()}/{image.stem}".removeprefix("./")
                split = split_of(image, root)
                objects = {"instances": numbered(size, shapes)}
                yield Raw(name, image, drawn(size, shapes, undrawn, classes), split, targets=objects)

    return Reading(classes, samples())


def _content(path: Path) -> Mapping[str, Any]:
    try:
        content: Mapping[str, Any] = read_json(path, LIMIT)
        content["size"]["height"], content["objects"]
    except ContentError as error:
        raise DatasetError(str(error)) from None
    except (KeyError, TypeError) as error:
        raise DatasetError(f"{path}: is no annotation ({brief(error)})") from None
    return content


def _size(path: Path) -> tuple[int, int]:
    size = _content(path)["size"]
    return int(size["height"]), int(size["width"])


def _shapes(path: Path, index: Mapping[str, int]) -> list[Shape]:
    content, shapes = _content(path), []
    for thing in content["objects"]:
        title, kind = str(thing.get("classTitle")), thing.get("geometryType")
        if title not in index:
            raise DatasetError(f"{path}: class {title!r} is not in meta.json")
        try:
            if kind == "bitmap":
                shapes.append(Shape(index[title], mask=_bitmap(thing["bitmap"], content["size"])))
            elif kind == "alpha_mask":
                shapes.append(Shape(index[title], mask=_bitmap(thing["alpha_mask"], content["size"], 128)))
            elif kind == "multipolygon":
                parts = [[part["exterior"], *part.get("interior", ())] for part in thing["parts"]]
                shapes.append(Shape(index[title], tuple(ring(r) for rings in parts for r in rings)))
            elif kind == "oriented_bbox":
                shapes.append(Shape(index[title], (_turned(thing["points"], float(thing["angle"])),)))
            elif kind in ("polygon", "rectangle"):
                points = thing["points"]
                rings = [points["exterior"], *points.get("interior", ())]
                shapes.append(Shape(index[title], tuple(ring(r) for r in rings)))
            elif kind == "line":
                shapes.append(Shape(index[title], (ring(thing["points"]["exterior"]),), width=1))
            elif kind not in NO_AREA:
                raise ValueError(f"geometryType {kind}")
        except (KeyError, TypeError, ValueError, OSError, zlib.error) as error:
            raise DatasetError(f"{path}: an object of {title!r} is damaged ({brief(error)})") from None
    return shapes


def _turned(points: Any, angle: float) -> np.ndarray:
    """Return the corners of a box that is turned by an angle in radians around its centre, clockwise as it is seen."""
    corners = points["exterior"] if isinstance(points, dict) else points
    (left, top), (right, bottom) = np.asarray(corners, np.float64)
    box = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    matrix = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    center = box.mean(0)
    return np.asarray((box - center) @ matrix + center)


def _bitmap(bitmap: Mapping[str, Any], size: Mapping[str, Any], least: int = 1) -> np.ndarray:
    data = base64.b64decode(bitmap["data"])
    if not data.startswith(PNG):
        data = zlib.decompressobj().decompress(data, MOST)
    with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
        pixels = np.asarray(image.convert("RGBA") if image.mode in ("P", "PA", "LA") else image)
    values = (pixels[..., 3] if pixels.ndim == 3 and pixels.shape[-1] == 4 else pixels).astype(np.uint8)
    part = values >= least
    left, top = (int(v) for v in bitmap["origin"])
    return placed(part, left, top, int(size["height"]), int(size["width"]))


LAYOUT = Layout(
    "supervisely",
    "Supervisely",
    home="https://supervisely.com",
    licence="",
    looks_for="meta.json beside datasets with img/ and ann/",
    read=_read,
    marks=("meta.json", "*/ann/*.json"),
    needs=("*/img/*",),
    targets=("instances",),
    splits="datasets called train, val, test; otherwise dealt",
    classes="of meta.json",
)
