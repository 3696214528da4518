"""Segments.ai: a release's JSON file, beside the images and label bitmaps that it names.

docs.segments.ai, "Release files"; the names of files on disk: `SegmentsDataset` of github.com/segments-ai/segments-ai.
A bitmap's id is R + 256 G + 65536 B, and the release says which category it is; 0 is what nothing is drawn on.

    flowers-v1.0.json                                  {"name", "dataset": {"task_attributes", "labelsets", "samples"}}
    segments/jane_flowers/v1.0/a.jpg                   anywhere below, by the sample's name or that in its address
    segments/jane_flowers/v1.0/a_label_ground-truth.png
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats import json_files
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import instances_of, looked_up
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.data.formats.raw_labels import read_raw
from segmodels.errors import brief
from segmodels.files import ContentError, read_json

LIMIT, LABELSET = 1 << 30, "ground-truth"
KEYS = (b'"labelsets"', b'"samples"', b'"segmentation_bitmap"')


def _file(root: Path) -> Path | None:
    return next((p for p in sorted(root.glob("*.json"))[:3] if all(key in json_files.ends(p) for key in KEYS)), None)


def _detect(root: Path) -> Fit | None:
    return Fit(path.name) if (path := _file(root)) is not None else None


def _read(root: Path, job: Job) -> Reading:
    path = _file(root) or root
    try:
        dataset = read_json(path, LIMIT)["dataset"]
        categories = {int(c["id"]): str(c["name"]) for c in dataset["task_attributes"]["categories"]}
        samples = [(str(s["name"]), s["labels"].get(LABELSET), s["attributes"]["image"]) for s in dataset["samples"]]
    except (ContentError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"{path}: is no release of Segments.ai ({brief(error)}); download it again") from None
    classes, undrawn = job.undrawn(infos(list(categories.values())))
    index = {number: place + len(classes) - len(categories) for place, number in enumerate(categories)}
    files: dict[str, list[Path]] = {}
    for file in image_files(root):
        files.setdefault(file.stem, []).append(file)
    job.left_out([name for name, label, _ in samples if not label], f"they have no label in the labelset {LABELSET}")

    def raws() -> Iterator[Raw]:
        for name, label, address in samples:
            if not label:
                continue
            stem, truth = PurePosixPath(name).stem, label["attributes"]
            image = _located(files, stem, address)
            bitmap = _located(files, f"{stem}_label_{LABELSET}", truth["segmentation_bitmap"])
            if image is None or bitmap is None:
                missing = name if image is None else f"{stem}_label_{LABELSET}.png"
                job.problems.append(f"{path}: {missing} is not below the folder once; add it, or take the sample out")
                continue
            table = {0: undrawn} | {int(e["id"]): index[int(e["category_id"])] for e in truth["annotations"]}
            yield Raw(stem, image, partial(_classes, bitmap, table), targets={"instances": partial(_objects, bitmap)})

    return Reading(classes, raws())


def _located(files: Mapping[str, list[Path]], stem: str, address: Mapping[str, Any]) -> Path | None:
    """Return the one file of this stem, or of that in an address."""
    other = PurePosixPath(urlsplit(str(address.get("url"))).path).stem
    return next((files[name][0] for name in (stem, other) if len(files.get(name, ())) == 1), None)


def _numbers(path: Path) -> np.ndarray:
    raw = read_raw(path)
    swapped = (raw.values >> 16) + (raw.values & 0xFF00) + ((raw.values & 255) << 16)
    return swapped if raw.colored else raw.values


def _classes(path: Path, table: Mapping[int, int]) -> np.ndarray:
    return looked_up(_numbers(path), table, lambda v: f"object {v}", path)


def _objects(path: Path) -> np.ndarray:
    return instances_of(_numbers(path))


LAYOUT = Layout(
    "segments_ai",
    "Segments.ai, bitmaps",
    home="https://segments.ai",
    licence="",
    looks_for="the release's JSON file above its images and *_label_ground-truth.png",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="dealt",
    classes="of the release",
)
