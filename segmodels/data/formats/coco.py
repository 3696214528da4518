"""COCO's objects: 80 classes of things, on a class of pixels that are none of them.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014). Also whatever a tool exports as COCO, with a file
for each split: `instances_train2017.json` (COCO), `train/_annotations.coco.json` (Roboflow),
`annotations/instances_default.json` (CVAT), `result.json` beside `images/` (Label Studio).

    annotations/instances_<split><year>.json   or stuff_<split><year>.json alone
    train2017/000000000009.jpg                 or images/train2017/, or beside the file of annotations
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats import coco_json
from segmodels.data.formats.coco_json import Part
from segmodels.data.formats.layout import Fit, Job, Layout, Reading
from segmodels.files import ContentError, read_json

FILES = ("annotations/*.json", "*/_annotations.coco.json", "_annotations.coco.json", "*.json", "*/*.json")
MOST = 12
SPLIT = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
# Files beside them that are something else: captions, points of bodies, other lists of images.
OTHER = re.compile(r"^(captions|person_keypoints|panoptic|image_info|lvis)", re.IGNORECASE)
# Read where there are no objects; its category `other` is what belongs to those.
STUFF = re.compile(r"^stuff", re.IGNORECASE)


def _parts(root: Path) -> Iterator[Part]:
    """Yield the files of annotations, and where their images lie; the head of each file tells that it is one."""
    for pattern in FILES:
        parts = []
        # Hundreds of JSON files in one folder are one for each image: another layout.
        for path in sorted(islice(root.glob(pattern), MOST)):
            if OTHER.match(path.name) or path.name.startswith(".") or not _is_coco(path):
                continue
            words = [*re.split(r"[^a-z]+", path.stem.lower()), path.parent.name.lower()]
            split = next((SPLIT[word] for word in words if word in SPLIT), None)
            named = re.search(r"_([a-z]+\d*)$", path.stem)
            # Where `annotations` itself is given, images lie beside it.
            tops = [root, root.parent] if root.name == "annotations" else [root]
            folders = [top / place for top in tops for place in (f"images/{named[1]}", named[1])] if named else []
            folders += [path.parent / "images", root / "images", path.parent, root]
            parts.append(Part(path, next((f for f in folders if f.is_dir()), root), split))
        if parts:
            things = [part for part in parts if not STUFF.match(part.annotations.name)]
            yield from things or parts
            return


def _is_coco(path: Path) -> bool:
    """Tell whether a JSON file is of COCO's shape, by its beginning and its end: it may have hundreds of megabytes."""
    with path.open("rb") as file:
        head = file.read(1 << 14)
        file.seek(max(0, path.stat().st_size - (1 << 14)))
        ends = head + file.read()
    if not head.lstrip().startswith(b"{"):
        return False
    if len(head) < 1 << 14:
        try:
            content = read_json(path)
        except ContentError:
            return False
        return isinstance(content, dict) and {"images", "categories", "annotations"} <= content.keys()
    return sum(key in ends for key in (b'"images"', b'"categories"', b'"annotations"', b'"info"', b'"licenses"')) >= 2


def _detect(root: Path) -> Fit | None:
    parts = list(_parts(root))
    return Fit(", ".join(part.annotations.relative_to(root).as_posix() for part in parts[:3])) if parts else None


def _read(root: Path, job: Job) -> Reading:
    parts = list(_parts(root))
    contents = {part.annotations: coco_json.load(part.annotations) for part in parts}
    named = coco_json.categories(list(contents.items()))
    if not named:
        raise DatasetError(f"{parts[0].annotations}: has no category")
    drawn = {annotation.get("category_id") for c in contents.values() for annotation in c.get("annotations", ())}
    # Roboflow's first category is the group that the others belong to, and nothing is one.
    named = {n: name for n, name in named.items() if n != 0 or 0 in drawn or len(named) == 1} or named
    classes, undrawn = job.undrawn(coco_json.infos(list(named.values())))
    shift = len(classes) - len(named)
    index = {number: place + shift for place, number in enumerate(named)}
    return Reading(classes, coco_json.samples(parts, contents, index, undrawn, classes, job))


LAYOUT = Layout(
    "coco",
    "COCO objects, and exports as COCO",
    home="https://cocodataset.org",
    licence="",
    looks_for="annotations/instances_*.json beside train2017/, or a JSON file of COCO's shape beside its images",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="one file of annotations each",
    classes="of the file; 80 in COCO",
)
