"""Whatever a file of annotations holds is read, or refused in a sentence; nothing else is raised, nothing is left."""

from __future__ import annotations

import base64
import copy
import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmodels.data.formats import convert
from segmodels.errors import UserError
from tests.segmodels.data.formats import test_archives, test_coco, test_drives, test_exports, test_georaster, test_tools
from tests.segmodels.data.formats.making import picture, write

JUNK: tuple[Any, ...] = (
    None, True, -1, 0, 2**63, 1e308, float("nan"), "", "x", "../../etc/passwd", "\x00", "é" * 300, [], {}, [[]], [None],
    {"a": 1}, [1, 2], [[1, 2], [3]], "0,0,0",
)  # fmt: skip


def region(root: Path) -> Path:
    return test_exports.via(root, [test_exports.REGION])


def shapes(root: Path) -> Path:
    square = {"label": "car", "points": test_tools.SQUARE, "shape_type": "polygon"}
    return test_tools.labelme(root, [square, {"label": "dog", "points": [[0, 0], [3, 3]], "shape_type": "circle"}])


def bitmaps(root: Path) -> Path:
    points = {"exterior": test_tools.SQUARE, "interior": []}
    bitmap = {"data": "eJxz", "origin": [0, 0]}
    box = {"points": [[0, 0], [3, 2]], "angle": 0.3}
    objects: list[dict[str, Any]] = [
        {"classTitle": "dog", "geometryType": "polygon", "points": points},
        {"classTitle": "dog", "geometryType": "multipolygon", "parts": [points]},
        {"classTitle": "car", "geometryType": "oriented_bbox", **box},
        {"classTitle": "car", "geometryType": "bitmap", "bitmap": bitmap},
    ]
    return test_tools.supervisely(root, objects)


def tasks(root: Path) -> Path:
    sized = {"original_width": 8, "original_height": 6}
    value = {"points": [[0, 0], [50, 0], [50, 50]], "polygonlabels": ["car"]}
    brush = {"format": "rle", "rle": [0, 0, 0, 192, 57, 27, 124], "brushlabels": ["dog"]}
    mask = "data:image/png;base64," + base64.b64encode(test_tools.png(np.zeros((6, 8, 4), np.uint8))).decode()
    results = [
        {"type": "polygonlabels", **sized, "value": value},
        {"type": "brushlabels", **sized, "value": brush},
        {"type": "labels", **sized, "value": {"x": 0, "y": 0, "width": 9, "height": 9, "labels": ["cat"]}},
        {"type": "bitmasklabels", **sized, "value": {"imageDataURL": mask, "bitmasklabels": ["cat"]}},
    ]
    return test_tools.label_studio(root, results)


def objects(root: Path) -> Path:
    runs = {"size": [6, 8], "counts": [10, 38]}
    return test_coco.coco(root, [test_coco.entry(1, 1, [test_coco.CAR]), test_coco.entry(2, 3, runs)])


MADE: dict[str, Callable[[Path], Path]] = {
    "labelme": shapes,
    "supervisely": bitmaps,
    "label_studio": tasks,
    "via": region,
    "coco": objects,
    "coco_panoptic": test_drives.panoptic,
    "segments_ai": test_exports.segments_ai,
    "nnunet": lambda root: test_exports.nnunet(root, {"background": 0, "liver": 1, "ignore": 9}),
}


def spoilt(value: Any, rng: random.Random) -> Any:
    """A JSON value with one of its parts, wherever it lies, replaced, removed or doubled."""
    made = copy.deepcopy(value)
    place = made
    while True:
        keys = list(place) if isinstance(place, dict) else list(range(len(place))) if isinstance(place, list) else []
        if not keys:
            return rng.choice(JUNK)
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        if rng.random() < 0.15:
            del place[key]
        else:
            place[key] = copy.deepcopy(rng.choice(JUNK))
        return made


@pytest.mark.parametrize("key", MADE)
def test_spoilt_json_is_read_or_refused(tmp_path: Path, key: str) -> None:
    source = MADE[key](tmp_path / "source")
    rng = random.Random(key)
    for number in range(60):
        root = tmp_path / f"{number}"
        shutil.copytree(source, root)
        path = rng.choice(sorted(root.rglob("*.json")))
        text = json.dumps(spoilt(json.loads(path.read_text()), rng))
        path.write_text(text if rng.random() < 0.95 else text[: len(text) // 2])
        out = tmp_path / f"out{number}"
        try:
            convert(root, key, out)
        except UserError as error:
            assert "\n" not in str(error) or "problems in the data" in str(error)
            assert not out.exists(), text
        assert not list(tmp_path.glob("*.part"))
        shutil.rmtree(root)


def _cvat(root: Path) -> Path:
    mask = '<mask label="car" rle="1, 2, 3" left="0" top="0" width="3" height="2" z_order="1"/>'
    return test_tools.cvat(root, '<polygon label="dog" points="0,0;3,0;3,3" z_order="0"/>' + mask)


def _video(root: Path) -> Path:
    for number in (10, 13):
        picture(root / f"images/frame_{number:06}.png", 6, 8)
    return write(root / "annotations.xml", test_tools.VIDEO).parent


def _yolo(root: Path) -> Path:
    return test_tools.yolo(root, "0 0.1 0.1 0.9 0.1 0.9 0.9")


def _vectors(root: Path) -> Path:
    test_georaster.raster(root / "images/a.tif", 40, 60)
    test_georaster.features(root / "labels/a.geojson", [(test_georaster.box(5, 4, 30, 20), {"class": "field"})])
    return root


def _packed(root: Path) -> Path:
    test_georaster.raster(root / "images/a.tif", 40, 60)
    test_georaster.table(root / "labels/a.gpkg", test_georaster.SHAPES)
    return root


# Layout -> what makes a folder of it, and the files of annotations that are spoilt.
FILES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "cvat": (_cvat, "*.xml"),
    "labelme_xml": (test_exports.labelme_xml, "*.xml"),
    "cvat, video": (_video, "*.xml"),
    "yolo": (_yolo, "*.txt"),
    "sbd": (test_archives.sbd, "*.mat"),
    "georaster": (_vectors, "*.geojson"),
    "georaster, packed": (_packed, "*.gpkg"),
    "georaster, images": (_packed, "*.tif"),
}
WORDS = (b"-1", b"nan", b"1e999", b"", b"\x00", b"99999999999999999999", b"<", b"&x;", b"../x", b"\xff\xfe", b" " * 300)


def _spoilt_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bytes of which a part is cut, doubled, flipped, or a word of a text replaced."""
    kind = rng.randrange(5)
    start = rng.randrange(len(data) + 1)
    stop = min(len(data), start + rng.randrange(1, 40))
    if kind == 0:
        return data[:start]
    if kind == 1:
        return data[:start] + data[start:stop] * 2 + data[stop:]
    if kind == 2:
        return data[:start] + bytes(rng.randrange(256) for _ in range(stop - start)) + data[stop:]
    words = list(re.finditer(rb"[\w.+-]+", data))
    if kind == 3 and words:
        word = rng.choice(words)
        return data[: word.start()] + rng.choice(WORDS) + data[word.end() :]
    return data[:start] + data[stop:]


@pytest.mark.parametrize("key", FILES)
def test_spoilt_bytes_are_read_or_refused(tmp_path: Path, key: str) -> None:
    make, pattern = FILES[key]
    source = make(tmp_path / "source")
    rng = random.Random(key)
    for number in range(60):
        root = tmp_path / f"{number}"
        shutil.copytree(source, root)
        path = rng.choice(sorted(root.rglob(pattern)))
        data = _spoilt_bytes(path.read_bytes(), rng)
        path.write_bytes(data)
        out = tmp_path / f"out{number}"
        try:
            convert(root, key.partition(",")[0], out)
        except UserError as error:
            assert "\n" not in str(error) or "problems in the data" in str(error)
            assert not out.exists(), data
        assert not list(tmp_path.glob("*.part"))
        shutil.rmtree(root)
