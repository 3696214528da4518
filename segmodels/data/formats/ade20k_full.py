"""ADE20K, the whole dataset of 2021 with more than 3,000 kinds of objects.

Zhou et al., "Semantic understanding of scenes through the ADE20K dataset" (IJCV 2019). Coding: `utils_ade20k.py` of
github.com/CSAILVision/ADE20K.

    images/ADE/{training,validation}/SCENE/…/X.jpg
    images/ADE/{training,validation}/SCENE/…/X_seg.png    RGB: class R // 10 * 256 + G, 0 is void; object B
    images/ADE/{training,validation}/SCENE/…/X.json       names: `name_ndx` and `name`; in Latin-1 where not in UTF-8

The folder of the archive, `images`, `ADE` or one split's folder may be given. The version of 2016 has no JSON files but
`X_atr.txt`, in which objects have no number, and is not read.

Classes are those that the JSON files name as objects, in the order of their numbers. Labels of 8 bits hold at most 255:
`data.classes` says which of them become one. Parts of objects (`X_parts_1.png`) are not read.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import instances_of, looked_up, packed_colors
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.errors import brief
from segmodels.files import ContentError, parse_json

SPLITS = {"training": "train", "validation": "val"}
PLACES = ("images/ADE", "ADE", ".", "images")
OLD = "*.json (which the version of 2021 has; that of 2016 is not read)"
VOID = 0


def _folders(root: Path) -> dict[str, Path]:
    """Return the folder of each split: below the archive's, or `root` itself."""
    place = next((root / p for p in PLACES if any((root / p / folder).is_dir() for folder in SPLITS)), None)
    if place is not None:
        return {split: place / folder for folder, split in SPLITS.items() if (place / folder).is_dir()}
    return {SPLITS[root.name]: root} if root.name in SPLITS else {}


def _detect(root: Path) -> Fit | None:
    for folder in _folders(root).values():
        # Outside ADE/ anybody's masks may be called `_seg`.
        name = "*_seg.png" if folder.parent.name == "ADE" else "ADE_*_seg.png"
        if (label := next((p for d in ("*/", "*/*/", "*/*/*/") if (p := first(folder, d + name))), None)) is not None:
            stem = label.name.removesuffix("_seg.png")
            lacks = "" if label.with_name(f"{stem}.json").is_file() else OLD
            return Fit(label.relative_to(root).as_posix(), lacks)
    return None


def _read(root: Path, job: Job) -> Reading:
    entries = []
    named: dict[int, str] = {}
    for split, folder in _folders(root).items():
        for image in image_files(folder):
            label, told = image.with_name(f"{image.stem}_seg.png"), image.with_suffix(".json")
            if image.suffix != ".jpg":
                continue
            if not label.is_file() or not told.is_file():
                missing = told if label.is_file() else label
                job.problems.append(f"{image}: {missing.name} is missing beside it; add it, or remove the image")
                continue
            entries.append((image, label, split))
            try:
                named |= {n: name for n, name in _named(told) if named.get(n, name) == name}
            except (ContentError, KeyError, TypeError, ValueError) as error:
                job.problems.append(f"{told}: is no description of an image of ADE20K ({brief(error)}); restore it")
    numbers = sorted(named)
    table = Table(tuple(zip(numbers, infos([named[n] for n in numbers]), strict=True)))
    ids = table.ids(VOID)
    samples = [
        Raw(image.stem, image, partial(_classes, label, ids), split, targets={"instances": partial(_objects, label)})
        for image, label, split in entries
    ]
    return Reading(table.classes, samples, "ade20k_full")


def _named(path: Path) -> list[tuple[int, str]]:
    content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError:
        text = content.decode("latin-1")
    entries = parse_json(text, str(path))["annotation"]["object"]
    return [(int(e["name_ndx"]), str(e["name"])) for e in entries if int(e["parts"]["part_level"]) == 0]


def _classes(path: Path, ids: dict[int, int]) -> np.ndarray:
    colors = packed_colors(path)
    return looked_up((colors >> 16) // 10 * 256 + (colors >> 8 & 255), ids, lambda v: f"class {v}", path)


def _objects(path: Path) -> np.ndarray:
    return instances_of(packed_colors(path) & 255)


LAYOUT = Layout(
    "ade20k_full",
    "ADE20K 2021, all classes",
    home="https://ade20k.csail.mit.edu",
    licence="non-commercial research and education",
    looks_for="images/ADE/{training,validation}/…/*_seg.png beside *.jpg and *.json",
    read=_read,
    detect=_detect,
    over=("side_by_side",),
    obtain="register on its page",
    targets=("instances",),
    classes="of the JSON files, more than 3,000",
)
