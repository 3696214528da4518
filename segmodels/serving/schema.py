"""What OpenAPI says of the paths: the answers' fields, examples, and what each status means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

NAME, VERSION, SHA256 = "X-Model-Name", "X-Model-Version", "X-Model-SHA256"


@dataclass
class Problem:
    """An answer that is none."""

    error: str


@dataclass
class Alive:
    """The process answers."""

    alive: bool


@dataclass
class Ready:
    """A model is loaded."""

    ready: bool
    version: str


@dataclass
class ServedClass:
    """A class of the model, or what its task has in its place."""

    id: int
    name: str
    color: str


@dataclass
class ModelCard:
    """The model that answers; `trouble` says why it may not be what the target means."""

    name: str
    version: str
    sha256: str
    loaded_at: float
    device: str
    precision: str
    architecture: str
    paper: str
    year: int
    options: dict[str, Any]
    task: str
    forms: dict[str, list[str]]
    classes: list[ServedClass]
    image_size: list[int] | None
    settings: dict[str, Any]
    metrics: dict[str, float]
    trouble: str | None


@dataclass
class DriftFeature:
    """One number compared with the reference; None where a distribution has none."""

    name: str
    meaning: str
    drifted: bool
    size: str
    distance: float
    threshold: float
    p: float
    psi: float
    reference: float | None
    mean: float | None


@dataclass
class DriftClass:
    """The share of the pixels that are predicted as a class."""

    name: str
    reference: float
    share: float


@dataclass
class DriftState:
    """The last images that were looked at, compared with those of the version's evaluation."""

    version: str
    verdict: str
    drifted: bool
    seen: int
    images: int
    features: list[DriftFeature]
    classes: list[DriftClass]


DESCRIPTION = """POST an image and get its class map, an overlay, or the outlines of its regions; of a model of another
task what it predicts. `output` says which, /model lists what there is;
without it the header `Accept` does. Every answer names the model that gave it: `X-Model-Name`, `X-Model-Version`,
`X-Model-SHA256`. What cannot be answered gets a status of 4xx or 503 and `{"error": "one sentence"}`."""

BINARY = {"schema": {"type": "string", "format": "binary"}}
_REGION = [[0, 0], [480, 0], [480, 200], [0, 200], [0, 0]]
_FEATURE = {
    "type": "Feature",
    "geometry": {"type": "Polygon", "coordinates": [_REGION]},
    "properties": {"class_id": 0, "class": "sky", "color": "#808080", "area": 96000},
}
_GEOJSON = {"type": "FeatureCollection", "image": "image", "frame": "pixels; …", "features": [_FEATURE]}
_COCO = {
    "images": [{"id": 1, "file_name": "image", "width": 480, "height": 360}],
    "annotations": [
        {
            "id": 1,
            "image_id": 1,
            "category_id": 0,
            "segmentation": [[0, 0, 480, 0, 480, 200, 0, 200]],
            "area": 96000,
            "bbox": [0, 0, 480, 200],
            "iscrowd": 0,
        }
    ],
    "categories": [{"id": 0, "name": "sky", "supercategory": ""}],
}
REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": meaning}
    for status, meaning in {
        406: "No form has the type that Accept asks for.",
        408: "The body came too slowly.",
        413: "The body or the image is too large.",
        415: "The type of the body is not taken.",
        422: "No image that can be read, or a parameter outside its range.",
        429: "Too many wait; Retry-After says when to come again.",
        503: "No model yet, no answer in time, or the server is shutting down.",
    }.items()
}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The prediction.",
        "headers": {
            NAME: {"schema": {"type": "string"}, "description": "The model's name."},
            VERSION: {"schema": {"type": "string"}, "description": "Its version."},
            SHA256: {"schema": {"type": "string"}, "description": "Hash of its weights."},
        },
        "content": {
            "image/png": {**BINARY, "example": "class ids, with the classes' colours as palette"},
            "image/jpeg": BINARY,
            "application/json": {"example": _COCO},
            "application/geo+json": {"example": _GEOJSON},
        },
    },
    **REFUSALS,
}
ZIPPED = {**ANSWERS, 200: {**ANSWERS[200], "content": {"application/zip": BINARY, "application/json": {}}}}
FILES = {
    "type": "object",
    "properties": {"images": {"type": "array", "items": {"type": "string", "format": "binary"}}},
}
FILE = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}}


def body_of(form: dict[str, Any]) -> dict[str, Any]:
    """Return the request's body: the file itself, or a form with this schema."""
    content = dict.fromkeys(("image/jpeg", "image/png", "image/*", "application/octet-stream"), BINARY)
    return {"requestBody": {"required": True, "content": {**content, "multipart/form-data": {"schema": form}}}}
