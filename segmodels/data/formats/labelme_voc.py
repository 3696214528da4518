"""labelme's export in VOC's folders, as its `labelme2voc` writes it.

github.com/wkentaro/labelme, `examples/semantic_segmentation/labelme2voc.py` (with its own list of classes, where the
first is `_background_`; `__ignore__` is 255). Versions differ in the folder's name.

    JPEGImages/a.jpg
    SegmentationClass/a.png              or SegmentationClassPNG/; where there are .npy alone, they are not read
    SegmentationObject/a.png             or SegmentationObjectPNG/
    class_names.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first, named_alike, paired
from segmodels.files import read_text

KINDS = ("SegmentationClassPNG", "SegmentationClass")
VOID = 255


def _detect(root: Path) -> Fit | None:
    if not (root / "class_names.txt").is_file() or not any((root / kind).is_dir() for kind in KINDS):
        return None
    label = next((p for kind in KINDS if (p := first(root, f"{kind}/*.png"))), None)
    lacks = "JPEGImages/" if not (root / "JPEGImages").is_dir() else "" if label else "SegmentationClass/*.png"
    return Fit("class_names.txt beside SegmentationClass/", lacks)


def _read(root: Path, job: Job) -> Reading:
    lines = [line.strip() for line in read_text(root / "class_names.txt").splitlines() if line.strip()]
    named = [line.strip("_") for line in lines if line != "__ignore__"]
    labels = root / next(kind for kind in KINDS if first(root, f"{kind}/*.png"))
    objects = root / labels.name.replace("Class", "Object")
    table = {index: index for index in range(len(named))} | {VOID: 255}

    def samples() -> Iterator[Raw]:
        for image, label in paired(image_files(root / "JPEGImages"), named_alike(labels), job):
            numbers = objects / label.name
            targets = {"instances": partial(_objects, numbers)} if numbers.is_file() else {}
            yield Raw(image.stem, image, by_id(label, table), targets=targets)

    return Reading(infos(named), samples())


def _objects(path: Path) -> np.ndarray:
    values = values_of(path)
    return instances_of(np.where(values == VOID, 0, values))


LAYOUT = Layout(
    "labelme_voc",
    "labelme, exported as VOC",
    home="https://github.com/wkentaro/labelme",
    licence="",
    looks_for="class_names.txt beside JPEGImages/ and SegmentationClass/",
    read=_read,
    detect=_detect,
    over=("voc",),
    targets=("instances",),
    splits="dealt",
    classes="of class_names.txt",
)
