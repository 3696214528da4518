"""SBD: 11,355 images of VOC 2011 with its 20 classes and objects, as their authors publish them.

Hariharan et al., "Semantic Contours from Inverse Detectors" (ICCV 2011). Variables: the archive's README. There is no
void.

    img/2008_000002.jpg
    cls/2008_000002.mat      GTcls.Segmentation, 0 = background, 1..20
    inst/2008_000002.mat     GTinst.Segmentation, number of the object
    train.txt val.txt        an id a line; all lie in `dataset/` of the archive
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.decode import instances_of, looked_up
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, named_alike, paired
from segmodels.data.formats.truth import listed, matlab


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("voc")

    def samples() -> Iterator[Raw]:
        for split in ("train", "val"):
            listing = root / f"{split}.txt"
            if not listing.is_file():
                raise DatasetError(f"{listing}: no such file; it lists the images of the split, an id a line")
            images = (root / "img" / f"{name}.jpg" for name in listed(listing))
            for image, label in paired(images, named_alike(root / "cls", ".mat"), job):
                objects = root / "inst" / label.name
                targets = {"instances": partial(_objects, objects)} if objects.is_file() else {}
                yield Raw(image.stem, image, partial(_classes, label, table), split, targets=targets)

    return Reading(table.classes, samples(), "sbd")


def _classes(path: Path, table: Table) -> np.ndarray:
    return looked_up(_segmentation(path, "GTcls"), table.ids(255), lambda v: f"id {v}", path)


def _objects(path: Path) -> np.ndarray:
    return instances_of(_segmentation(path, "GTinst"))


def _segmentation(path: Path, variable: str) -> np.ndarray:
    try:
        values = matlab(path)[variable][0]["Segmentation"][0]
        return np.asarray(values).astype(np.int64)
    except (KeyError, IndexError, ValueError, TypeError):
        raise DatasetError(f"{path}: has no {variable}.Segmentation; restore it from benchmark.tgz") from None


LAYOUT = Layout(
    "sbd",
    "SBD (Semantic Boundaries Dataset)",
    home="http://home.bharathh.info/pubs/codes/SBD/download.html",
    licence="Flickr terms of use (images), research use",
    looks_for="cls/*.mat beside img/, train.txt and val.txt",
    read=_read,
    marks=("cls/20[01][0-9]_*.mat",),
    needs=("img/*.jpg", "train.txt", "val.txt"),
    targets=("instances",),
    classes="21",
)
