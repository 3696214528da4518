"""Label Studio: its JSON export, with brush masks, polygons, rectangles and ellipses, beside the images.

labelstud.io/guide/export, "JSON"; brush masks are rle-pack codes of RGBA pixels (label_studio_converter, `brush.py`),
bitmasks are PNGs on transparent ground (labelstud.io/tags/bitmasklabels); what is drawn with a tag of its own and named
with `Labels` has the type `labels`. Results are drawn in their order; the first annotation of a task that was not
cancelled counts. The brush export as PNG names masks by the numbers of tasks alone, so the JSON export is needed beside
it.

    *.json          [{"id", "data": {"image": "/data/upload/1/0a1b2c3d-a.jpg"}, "annotations": [{"result": [...]}]}]
    images/a.jpg    anywhere below, with or without the prefix of the upload
"""

from __future__ import annotations

import base64
import io
import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from PIL import Image

from segmodels.data.folder import DatasetError
from segmodels.data.formats import json_files
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import Shape, drawn, image_size, numbered
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first
from segmodels.errors import brief
from segmodels.files import ContentError, read_json

LIMIT = 1 << 30
KINDS = ("brushlabels", "bitmasklabels", "polygonlabels", "rectanglelabels", "ellipselabels", "labels")
AREAS = frozenset({"rle", "imageDataURL", "points", "width", "radiusX"})
OTHER = frozenset({"keypointlabels", "vectorlabels", "cuboidlabels", "keypoint", "magicwand"})
UPLOADED = re.compile(r"^[0-9a-f]{8}-")
BRUSH_PNG = "task-*-annotation-*.png"


def _detect(root: Path) -> Fit | None:
    for path in sorted(root.glob("*.json"))[:3]:
        text = json_files.ends(path)
        if (
            text.lstrip().startswith(b"[")
            and (b'"annotations"' in text or b'"completions"' in text)
            and b'"data"' in text
        ):
            return Fit(path.name)
    mask = first(root, BRUSH_PNG) or first(root, f"*/{BRUSH_PNG}")
    return (
        Fit(mask.relative_to(root).as_posix(), "the JSON export, which says which image is which task")
        if mask
        else None
    )


def _read(root: Path, job: Job) -> Reading:
    tasks = []
    for file in sorted(root.glob("*.json")):
        try:
            content = read_json(file, LIMIT)
        except ContentError as error:
            raise DatasetError(str(error)) from None
        if isinstance(content, list):
            tasks += [(file, task) for task in content if isinstance(task, dict)]
    images: dict[str, list[Path]] = {}
    for path in image_files(root):
        if not path.match(BRUSH_PNG):
            for name in {path.name, UPLOADED.sub("", path.name)}:
                images.setdefault(name, []).append(path)
    drawings = [
        (path, task, image, _results(task)) for path, task in tasks if (image := _image(path, task, images, job))
    ]
    drawn_with = {str(r.get("type")) for _, task, *_ in drawings for r in _all_results(task)}
    if other := sorted(drawn_with & OTHER):
        job.noted(f"{root}: results of the kinds {', '.join(other)} have no area or no label, and are left out")
    names = sorted({label for *_, results in drawings for r in results for label in _labels(r)})
    classes, undrawn = job.undrawn(infos(names))
    index = {info.name: place for place, info in enumerate(classes)}

    def samples() -> Iterator[Raw]:
        for file, task, image, results in drawings:
            if not _annotated(task):
                continue
            what = f"{file}: task {task.get('id')}"
            size, shapes = partial(image_size, image), partial(_shapes, what, image, results, index)
            label, objects = drawn(size, shapes, undrawn, classes), {"instances": numbered(size, shapes)}
            yield Raw(image.relative_to(root).with_suffix("").as_posix(), image, label, targets=objects)

    job.left_out([task.get("id") for _, task, *_ in drawings if not _annotated(task)], "tasks that nobody annotated")
    return Reading(classes, samples())


def _annotated(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = task.get("annotations") or task.get("completions") or []
    return [a for a in listed if isinstance(a, dict) and not a.get("was_cancelled")]


def _all_results(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    annotations = _annotated(task)
    results = annotations[0].get("result", []) if annotations else []
    return [r for r in results if isinstance(r, dict)]


def _results(task: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    # `Labels` name parts of texts and sounds, too.
    return [r for r in _all_results(task) if r.get("type") in KINDS and AREAS & r.get("value", {}).keys()]


def _labels(result: Mapping[str, Any]) -> list[str]:
    return [str(label) for label in result.get("value", {}).get(result["type"], ())]


def _image(path: Path, task: Mapping[str, Any], images: Mapping[str, list[Path]], job: Job) -> Path | None:
    data = task.get("data", {})
    address = next(
        (str(v) for v in data.values() if re.search(r"\.(png|jpe?g|bmp|webp|tiff?)(\W|$)", str(v), re.I)), ""
    )
    parts = urlsplit(address)
    local = parse_qs(parts.query).get("d", [unquote(parts.path)])[0]
    name = PurePosixPath(local.replace("\\", "/")).name
    matching = images.get(name) or images.get(UPLOADED.sub("", name)) or []
    if len(matching) == 1:
        return matching[0]
    why = f"lies in {len(matching)} folders" if matching else "is not below the folder; add it"
    job.problems.append(f"{path}: task {task.get('id')}: its image {name or data} {why}")
    return None


def _shapes(what: str, image: Path, results: list[Mapping[str, Any]], index: Mapping[str, int]) -> list[Shape]:
    height, width = image_size(image)
    shapes = []
    for result in results:
        try:
            labels, value = _labels(result), result["value"]
            if "rle" in value:
                mask = _unpacked(value["rle"], int(result["original_height"]), int(result["original_width"]))
                shapes += [Shape(index[label], mask=mask) for label in labels[:1]]
            elif "imageDataURL" in value:
                mask = _bitmask(value["imageDataURL"])
                shapes += [Shape(index[label], mask=mask) for label in labels[:1]]
            else:
                outline = _points(value) * (width / 100, height / 100)
                shapes += [Shape(index[label], (outline,)) for label in labels[:1]]
        except (KeyError, TypeError, ValueError, IndexError, OSError) as error:
            raise DatasetError(f"{what}: a result of kind {result['type']} is damaged ({brief(error)})") from None
    return shapes


def _bitmask(address: str) -> np.ndarray:
    with Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2])), formats=("PNG",)) as image:
        return np.asarray(image.convert("RGBA"))[..., 3] > 0


def _points(value: Mapping[str, Any]) -> np.ndarray:
    """Return the outline in per cent of width and height."""
    if "points" in value:
        return np.asarray(value["points"], np.float64).reshape(-1, 2)
    x, y, turn = float(value["x"]), float(value["y"]), math.radians(float(value.get("rotation", 0)))
    if "width" in value:
        right, bottom = float(value["width"]), float(value["height"])
        points = np.array([[0, 0], [right, 0], [right, bottom], [0, bottom]])
    else:
        turns = np.linspace(0, 2 * math.pi, 181)[:-1]
        points = np.stack([np.cos(turns) * float(value["radiusX"]), np.sin(turns) * float(value["radiusY"])], 1)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return points @ matrix + (x, y)


def _unpacked(code: list[int], height: int, width: int) -> np.ndarray:
    """Return an rle-pack code of RGBA pixels as the mask that its alpha is.

    A head of 32 bits for the number of values, 5 for their size, four times 4 for sizes of lengths; then blocks, each a
    bit (repeated or listed), two bits that choose a size, the length less one, and its values.
    """
    bits = np.unpackbits(np.asarray(code, np.uint8)).tolist()
    place = 0

    def take(count: int) -> int:
        nonlocal place
        if place + count > len(bits):
            raise ValueError("its code ends too early")
        number = 0
        for bit in bits[place : place + count]:
            number = number << 1 | bit
        place += count
        return number

    count, size = take(32), take(5) + 1
    lengths = [take(4) + 1 for _ in range(4)]
    if count != height * width * 4:
        raise ValueError(f"it has {count} values, and its image {height * width} pixels of four")
    values = np.zeros(count, np.uint8)
    done = 0
    while done < count:
        repeated = take(1)
        end = min(count, done + 1 + take(lengths[take(2)]))
        if repeated:
            values[done:end] = take(size)
        else:
            values[done:end] = [take(size) for _ in range(end - done)]
        done = end
    return values.reshape(height, width, 4)[..., 3] > 0


LAYOUT = Layout(
    "label_studio",
    "Label Studio, JSON",
    home="https://labelstud.io",
    licence="",
    looks_for="the JSON export (a list of tasks) beside the images",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="dealt",
    classes="those that are drawn",
)
