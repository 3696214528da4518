"""Class maps as answers: PNG, overlay, COCO, GeoJSON."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data.palette import Palette
from segmodels.tasks.base import Answered, Form, Task, TaskError
from segmodels.tasks.pictures import marked, overlay_form, save
from segmodels.tasks.semantic.polygons import Polygon, TooManyEdgesError, coco, geojson, polygons


def write_mask(label: np.ndarray, palette: Palette, path: Path) -> None:
    """Write class ids, uint8 `[H, W]`, as a palette PNG in the classes' colours, whole or not at all."""
    image = (
        Image.fromarray(label, mode="P") if label.dtype == np.uint8 else Image.fromarray(label.astype(np.uint8), "P")
    )
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    image.putpalette(colors.tobytes())
    save(image, path, "PNG", pnginfo=marked())


def class_map(label: np.ndarray, palette: Palette) -> bytes:
    """Return class ids as an 8-bit PNG with the classes' colours as its palette."""
    image = Image.fromarray(label, mode="P")
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    file = io.BytesIO()
    # Class maps are runs of one value: looking for nothing else is as fast as level 1, and a quarter smaller.
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def forms(task: Task) -> Mapping[str, Form]:
    """Return each form's encoders."""
    return {
        "classes": Form({"image/png": lambda a: class_map(a.value, [part.color for part in a.parts])}),
        "overlay": overlay_form(task),
        "coco": Form({"application/json": lambda a: coco_document([a])}),
        "geojson": Form(dict.fromkeys(("application/geo+json", "application/json"), _geojson)),
    }


def coco_document(answered: Sequence[Answered]) -> bytes:
    """Return the regions of several images as one COCO document.

    Raises:
        TaskError: Outlines would be larger than any use.
    """
    shapes = [_shapes(one) for one in answered]
    maps, names = [one.value for one in answered], [one.name for one in answered]
    return _json(coco(maps, names, [part.name for part in answered[0].parts], shapes))


def _geojson(answered: Answered) -> bytes:
    names, colors = [part.name for part in answered.parts], [part.color for part in answered.parts]
    return _json(geojson(_shapes(answered), answered.name, names, colors))


def _shapes(answered: Answered) -> list[Polygon]:
    try:
        return polygons(answered.value)
    except TooManyEdgesError as error:
        raise TaskError(f"{answered.name}: {error}; ask for output=classes") from None


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()
