"""From class maps to the bytes of an answer."""

from __future__ import annotations

import io
import json
import re
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath

import numpy as np
from PIL import Image

from segmodels.artifacts.model_folder import ModelConfig
from segmodels.inference.results import JPEG_QUALITY
from segmodels.serving.images import RefusedError
from segmodels.serving.polygons import Polygon, TooManyEdgesError, coco, geojson, polygons
from segmodels.tasks.semantic.pictures import overlay

PNG_LEVEL = 1  # higher levels take five times as long for a fifth less


class Form(StrEnum):
    """What an answer holds."""

    classes = "classes"
    overlay = "overlay"
    coco = "coco"
    geojson = "geojson"


# What each form can be sent as, the first by default.
KINDS: dict[Form, tuple[str, ...]] = {
    Form.classes: ("image/png",),
    Form.overlay: ("image/jpeg", "image/png"),
    Form.coco: ("application/json",),
    Form.geojson: ("application/geo+json", "application/json"),
}
# What is meant by a type where no form is named.
ACCEPTED = {
    "image/png": Form.classes,
    "image/*": Form.classes,
    "*/*": Form.classes,
    "application/zip": Form.classes,
    "image/jpeg": Form.overlay,
    "application/json": Form.coco,
    "application/geo+json": Form.geojson,
}
SUFFIXES = {"image/png": ".png", "image/jpeg": ".jpg", "application/json": ".json", "application/geo+json": ".geojson"}
ZIP = "application/zip"


def negotiate(output: Form | None, accept: str) -> tuple[Form, str]:
    """Return the form of an answer and its content type.

    Args:
        output: The form that was named, if any.
        accept: The header `Accept`.

    Raises:
        RefusedError: 406 where no form has a type that is accepted.
    """
    wanted = _preferences(accept)
    if output is not None:
        # A form that is named is sent even where Accept, which many clients set by themselves, has another type.
        return output, next((kind for kind in wanted if kind in KINDS[output]), KINDS[output][0])
    for kind in wanted:
        if kind in ACCEPTED:
            form = ACCEPTED[kind]
            return form, kind if kind in KINDS[form] else KINDS[form][0]
    kinds = "image/png, image/jpeg, application/json or application/geo+json"
    raise RefusedError(406, f"Accept {accept[:100]}: no answer has that type; ask for {kinds}", "accept")


def _preferences(accept: str) -> list[str]:
    """Return the types of a header `Accept`, the most wanted first."""
    weighted = []
    for part in accept.split(","):
        kind, _, parameters = part.partition(";")
        found = re.search(r"\bq=([0-9.]+)", parameters)
        try:
            weight = float(found[1]) if found else 1.0
        except ValueError:
            weight = 0.0
        if weight > 0:
            weighted.append((weight, kind.strip().lower()))
    return [kind for _, kind in sorted(weighted, key=lambda item: -item[0])]


@dataclass(frozen=True)
class Answer:
    """The body of an answer and its type."""

    body: bytes
    type: str


def answer(
    form: Form, kind: str, images: Sequence[np.ndarray], maps: Sequence[np.ndarray], names: Sequence[str],
    config: ModelConfig, alpha: float, *, several: bool
) -> Answer:  # fmt: skip
    """Return the answer to a request.

    Args:
        form: What is wanted.
        kind: Its content type.
        images: RGB, uint8 `[H, W, 3]`.
        maps: Class ids, uint8 `[H, W]`.
        names: The images' names.
        config: Of the model that made the maps.
        alpha: How much of the colours is seen in overlays, 0..1.
        several: Whether many were asked for: then a zip, except for COCO, whose document takes any number.

    Raises:
        RefusedError: 422 where outlines would be larger than any use.
    """
    if form is Form.coco:
        shapes = [_shapes(label, name) for label, name in zip(maps, names, strict=True)]
        return Answer(_json(coco(maps, names, config.class_names, shapes)), kind)
    bodies = [
        _one(form, kind, image, label, name, config, alpha)
        for image, label, name in zip(images, maps, names, strict=True)
    ]
    return Answer(_zip(bodies, names, kind), ZIP) if several else Answer(bodies[0], kind)


def _one(
    form: Form, kind: str, image: np.ndarray, label: np.ndarray, name: str, config: ModelConfig, alpha: float
) -> bytes:
    if form is Form.classes:
        return class_map(label, config.palette)
    if form is Form.overlay:
        return _picture(overlay(image, label, config.palette, alpha), kind)
    return _json(geojson(_shapes(label, name), name, config.class_names, config.palette))


def class_map(label: np.ndarray, palette: Sequence[Sequence[int]]) -> bytes:
    """Return class ids as an 8-bit PNG with the classes' colours as its palette."""
    image = Image.fromarray(label, mode="P")
    image.putpalette(np.asarray(palette, np.uint8).tobytes())
    file = io.BytesIO()
    # Class maps are runs of one value: looking for nothing else is as fast as level 1, and a quarter smaller.
    image.save(file, "PNG", compress_type=zlib.Z_RLE)
    return file.getvalue()


def _picture(pixels: np.ndarray, kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "image/jpeg":
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    else:
        Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def _shapes(label: np.ndarray, name: str) -> list[Polygon]:
    try:
        return polygons(label)
    except TooManyEdgesError as error:
        sentence = f"{name}: {error}; ask for output=classes"
        raise RefusedError(422, sentence, "ragged") from None


def _json(content: object) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _zip(bodies: Sequence[bytes], names: Sequence[str], kind: str) -> bytes:
    """Return a file for each image, numbered, since two images may have the same name."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED if kind.startswith("image/") else zipfile.ZIP_DEFLATED) as made:
        for number, (body, name) in enumerate(zip(bodies, names, strict=True)):
            stem = "".join(c if c.isalnum() or c in "-_" else "_" for c in PurePosixPath(name).stem)[:80]
            made.writestr(f"{number:03}-{stem or 'image'}{SUFFIXES[kind]}", body)
    return file.getvalue()
