"""LVIS: COCO's images with objects of more than a thousand categories.

Gupta, Dollár, Girshick, "LVIS: A Dataset for Large Vocabulary Instance Segmentation" (CVPR 2019); lvisdataset.org.
Version 1 has 1,203 categories and no `file_name`: `coco_url` ends in folder and name of the image. Labels of 8 bits
hold at most 255 classes: `data.classes` says which categories become one.

    lvis_v1_train.json            or annotations/lvis_v1_train.json
    train2017/000000391895.jpg    or images/train2017/
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from segmodels.data.formats import coco_json
from segmodels.data.formats.coco_json import Part
from segmodels.data.formats.layout import Fit, Job, Layout, Reading, first

FILES = "lvis_*_[tv][ra][al]*.json"


def _detect(root: Path) -> Fit | None:
    path = first(root, FILES) or first(root, f"annotations/{FILES}")
    if path is None:
        return None
    there = first(root, "*2017/0*.jpg") or first(root, "images/*2017/0*.jpg")
    return Fit(path.relative_to(root).as_posix(), "" if there else "train2017/*.jpg of COCO")


def _read(root: Path, job: Job) -> Reading:
    files = sorted([*root.glob(FILES), *root.glob(f"annotations/{FILES}")])
    contents = {path: _named(coco_json.load(path)) for path in files}
    named = coco_json.categories(list(contents.items()))
    classes, undrawn = job.undrawn(coco_json.infos(list(named.values())))
    index = {number: place + len(classes) - len(named) for place, number in enumerate(named)}
    images = root / "images" if (root / "images").is_dir() else root
    parts = [Part(path, images, "train" if "train" in path.stem else "val") for path in files]
    return Reading(classes, coco_json.samples(parts, contents, index, undrawn, classes, job), "lvis")


def _named(content: dict[str, Any]) -> dict[str, Any]:
    """Return the file's content with a `file_name` for each image, `train2017/000000391895.jpg`."""
    for entry in content["images"]:
        address = re.search(r"[a-z]+2017/\d+\.jpg$", str(entry.get("coco_url", "")))
        if "file_name" not in entry and address:
            entry["file_name"] = address[0]
    return content


LAYOUT = Layout(
    "lvis",
    "LVIS",
    home="https://www.lvisdataset.org",
    licence="CC BY 4.0 (annotations)",
    looks_for="lvis_v1_train.json beside COCO's train2017/",
    read=_read,
    detect=_detect,
    over=("coco",),
    targets=("instances",),
    classes="of the file; 1,203 in version 1",
)
