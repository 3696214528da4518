"""CVAT's segmentation mask 1.1, which other tools write, too: VOC's folders with colours of their own.

docs.cvat.ai, "Segmentation mask". `labelmap.txt` has `name:r,g,b:parts:actions` a line; `background` is one of them.

    labelmap.txt
    SegmentationClass/a.png            colours, RGB or palette
    SegmentationObject/a.png           colours of objects
    JPEGImages/a.jpg                   where images were exported, too
    ImageSets/Segmentation/*.txt       `default.txt`, or one for each subset
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.classes import VOID_NAMES
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color, instances_of, packed_colors
from segmodels.data.formats.folder import SPLIT_FOLDERS
from segmodels.data.formats.layout import Decoder, Job, Layout, Raw, Reading
from segmodels.files import read_text


def _read(root: Path, job: Job) -> Reading:
    listed = _labelmap(root / "labelmap.txt")
    classes = tuple(info for info in listed if info.name.lower() not in VOID_NAMES)
    table = {info.color: index for index, info in enumerate(classes)}
    table |= {info.color: 255 for info in listed if info.name.lower() in VOID_NAMES}
    splits: dict[str, str | None] = {}
    for path in sorted((root / "ImageSets" / "Segmentation").glob("*.txt")):
        split = SPLIT_FOLDERS.get(path.stem.lower())
        splits |= dict.fromkeys((line.strip() for line in read_text(path).splitlines()), split)
    images = {
        p.relative_to(root / "JPEGImages").with_suffix("").as_posix(): p for p in image_files(root / "JPEGImages")
    }

    def samples() -> Iterator[Raw]:
        for label in image_files(root / "SegmentationClass"):
            name = label.relative_to(root / "SegmentationClass").with_suffix("").as_posix()
            if name not in images:
                job.problems.append(f"{label}: has no image JPEGImages/{name}.*; export with images, or add it")
                continue
            objects = root / "SegmentationObject" / f"{name}.png"
            targets = {"instances": _objects(objects)} if objects.is_file() else {}
            yield Raw(name, images[name], by_color(label, table), splits.get(name), targets=targets)

    return Reading(classes, samples())


def _labelmap(path: Path) -> list[ClassInfo]:
    listed = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        try:
            red, green, blue = (int(value) for value in rest.partition(":")[0].split(","))
        except ValueError:
            raise DatasetError(f"{path}:{number}: is not `name:r,g,b::`") from None
        listed.append(ClassInfo(name.strip(), (red, green, blue)))
    return listed


def _objects(path: Path) -> Decoder:
    def decode() -> np.ndarray:
        return instances_of(packed_colors(path))

    return decode


LAYOUT = Layout(
    "cvat_mask",
    "CVAT segmentation mask 1.1",
    home="https://www.cvat.ai",
    licence="",
    looks_for="labelmap.txt beside SegmentationClass/ and JPEGImages/",
    read=_read,
    marks=("labelmap.txt", "SegmentationClass"),
    needs=("JPEGImages",),
    over=("voc",),
    targets=("instances",),
    splits="subsets called train, val, test; otherwise dealt",
    classes="of labelmap.txt",
)
