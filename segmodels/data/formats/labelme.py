"""labelme: a JSON file for each image, beside it; the image may be inside it.

github.com/wkentaro/labelme, `labelme/label_file.py`; how shapes become pixels: `labelme/utils/shape.py`. Shapes are
drawn in their order; lines are 10 pixels wide, points have a radius of 5. `labels.txt` beside the files names the
classes, one a line; otherwise every label that is drawn is one. `__ignore__` is void, `_background_` is what nothing is
drawn on.

    images/0001.json      {"shapes": [{"label", "points", "shape_type", "mask"}], "imagePath", "imageData", …}
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmodels.data.folder import IMAGE_SUFFIXES, ClassInfo, DatasetError
from segmodels.data.formats import json_files
from segmodels.data.formats.coco_json import infos, located
from segmodels.data.formats.decode import Shape, drawn, image_size, numbered, placed, ring
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, void_of
from segmodels.errors import brief
from segmodels.files import read_text

IGNORED, BACKGROUND = "__ignore__", "_background_"
LINE, POINT = 10, 5


def _detect(root: Path) -> Fit | None:
    path = json_files.first_with(root, ('"shapes"', '"imagePath"'))
    return Fit(path.relative_to(root).as_posix()) if path else None


def _read(root: Path, job: Job) -> Reading:
    files = list(json_files.each_with(root, ("shapes", "imagePath"), job))
    listing = next((f / "labels.txt" for f in (root, root.parent) if (f / "labels.txt").is_file()), None)
    if listing is not None:
        named = [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    else:
        named = sorted({str(shape.get("label")) for _, content in files for shape in content["shapes"]})
    classes, undrawn = job.undrawn(infos([n for n in named if n not in (IGNORED, BACKGROUND)]))
    index = {info.name: place for place, info in enumerate(classes)} | {IGNORED: void_of(classes), BACKGROUND: undrawn}
    return Reading(classes, _samples(root, files, index, undrawn, classes, job))


def _samples(
    root: Path,
    files: list[tuple[Path, dict[str, Any]]],
    index: Mapping[str, int],
    undrawn: int,
    classes: Sequence[ClassInfo],
    job: Job,
) -> Iterator[Raw]:
    for path, content in files:
        image, inside = located(path.parent, str(content["imagePath"])), content.get("imageData")
        if image is not None and image.suffix.lower() not in IMAGE_SUFFIXES:
            image = None  # older versions name the JSON file itself, with the image inside
        if image is None and not inside:
            job.problems.append(
                f"{path}: its image {content['imagePath']} is not beside it, nor inside it; add the image"
            )
            continue
        held = partial(base64.b64decode, inside) if image is None and inside else None
        image = image or _name_of(path, content)
        size = partial(_size, path, content, image, held is None)
        shapes = partial(_shapes, path, content, index)
        objects = {"instances": numbered(size, shapes)}
        split = json_files.split_of(path, root)
        name = path.relative_to(root).with_suffix("").as_posix()
        yield Raw(name, image, drawn(size, shapes, undrawn, classes), split, targets=objects, content=held)


def _name_of(path: Path, content: Mapping[str, Any]) -> Path:
    """Return the name of an image that lies inside the file; its ending is that of its bytes where none is given."""
    named = path.with_name(str(content["imagePath"]).replace("\\", "/").rpartition("/")[2])
    if named.suffix.lower() in IMAGE_SUFFIXES:
        return named
    return path.with_suffix(".png" if str(content["imageData"]).startswith("iVBOR") else ".jpg")


def _size(path: Path, content: Mapping[str, Any], image: Path, exists: bool) -> tuple[int, int]:
    if content.get("imageHeight") and content.get("imageWidth"):
        return int(content["imageHeight"]), int(content["imageWidth"])
    if not exists:
        raise DatasetError(f"{path}: has no imageHeight and imageWidth; open and save it with labelme")
    return image_size(image)


def _shapes(path: Path, content: Mapping[str, Any], index: Mapping[str, int]) -> list[Shape]:
    shapes = []
    for shape in content["shapes"]:
        label = str(shape.get("label"))
        if label not in index:
            raise DatasetError(f"{path}: label {label!r} is not in labels.txt; add it, or `{IGNORED}` the shape")
        try:
            shapes.append(_shape(shape, index[label], content))
        except (KeyError, TypeError, ValueError, OSError, IndexError) as error:
            raise DatasetError(f"{path}: a shape of {label!r} is damaged ({brief(error)})") from None
    return shapes


def _shape(shape: Mapping[str, Any], index: int, content: Mapping[str, Any]) -> Shape:
    kind, points = shape.get("shape_type") or "polygon", ring(shape["points"])
    if kind == "mask":
        with Image.open(io.BytesIO(base64.b64decode(shape["mask"])), formats=("PNG",)) as image:
            part = np.asarray(image) > 0
        left, top = (int(v) for v in points[0])
        mask = placed(part, left, top, int(content["imageHeight"]), int(content["imageWidth"]))
        return Shape(index, mask=mask)
    if kind == "circle":
        (x, y), edge = points
        return Shape(index, disc=(x, y, math.dist((x, y), edge)))
    if kind == "point":
        return Shape(index, disc=(*points[0], POINT))
    if kind in ("line", "linestrip"):
        return Shape(index, (points,), width=LINE)
    if kind in ("polygon", "rectangle", "oriented_rectangle"):
        return Shape(index, (points,))
    if kind == "points":
        return Shape(index)  # dots of a prompt, no area
    raise ValueError(f"shape_type {kind}")


LAYOUT = Layout(
    "labelme",
    "labelme",
    home="https://github.com/wkentaro/labelme",
    licence="",
    looks_for="JSON files with `shapes` and `imagePath`, one for each image",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="folders called train, val, test; otherwise dealt",
    classes="of labels.txt, otherwise those that are drawn",
)
