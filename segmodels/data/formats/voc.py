"""PASCAL VOC 2012 (2007 to 2011 have the same folders), 21 classes with the background.

Everingham et al., "The PASCAL Visual Object Classes Challenge" (IJCV 2010). Ids, colours and void: the
development kit's documentation, section 4.2, and `VOCinit.m`.

    JPEGImages/2007_000032.jpg
    SegmentationClass/2007_000032.png           palette PNG, 0 = background, 1..20, 255 = void (borders, difficult)
    SegmentationClassAug/…                      in its place where it is there: the labels of SBD, 10,582 for training
    SegmentationObject/2007_000032.png          palette PNG of objects' numbers, 255 = void
    ImageSets/Segmentation/{train,val}.txt      an id a line; with the labels of SBD `trainaug.txt`

A few files of it without lists are known by their names of 2007 to 2012, and dealt. `Annotations/*.xml` are boxes. Most
images have no labels, and are not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import (
    Decoder,
    Fit,
    Job,
    Layout,
    Raw,
    Reading,
    Table,
    first,
    fits,
    named_alike,
    paired,
)
from segmodels.files import read_text

SPLITS = ("train", "val")
VOID, YEAR = 255, "20[01][0-9]"


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("voc")
    augmented = first(root, "SegmentationClassAug/*.png") is not None
    truth = root / ("SegmentationClassAug" if augmented else "SegmentationClass")

    def samples() -> Iterator[Raw]:
        lists = root / "ImageSets" / "Segmentation"
        if not lists.is_dir():
            named = (root / "JPEGImages" / f"{label.stem}.jpg" for label in image_files(truth))
            for image, label in paired(named, named_alike(truth), job):
                yield Raw(image.stem, image, by_id(label, table.ids(VOID)), targets=_targets(root, label))
            return
        if not any((lists / f"{split}.txt").is_file() for split in SPLITS):
            raise DatasetError(f"{lists}: has no train.txt and no val.txt; they list the images, an id a line")
        for split in SPLITS:
            files = [lists / f"{split}{more}.txt" for more in ("aug", "")]
            listing = files[0] if augmented and files[0].is_file() else files[1]
            if not listing.is_file():
                continue  # val is dealt
            ids = [line.split()[0] for line in read_text(listing).splitlines() if line.strip()]
            images = [root / "JPEGImages" / f"{i}.jpg" for i in ids]
            for image, label in paired(images, named_alike(truth), job):
                yield Raw(image.stem, image, by_id(label, table.ids(VOID)), split, targets=_targets(root, label))

    return Reading(table.classes, samples(), "voc")


def _detect(root: Path) -> Fit | None:
    fit = fits(root, ("JPEGImages", "ImageSets/Segmentation/*.txt"), ("SegmentationClass*/*.png",))
    return fit or fits(root, (f"SegmentationClass/{YEAR}_*.png", f"JPEGImages/{YEAR}_*.jpg"))


def _targets(root: Path, label: Path) -> dict[str, Decoder]:
    objects = root / "SegmentationObject" / label.name
    return {"instances": _objects(objects)} if objects.is_file() else {}


def _objects(path: Path) -> Decoder:
    def decode() -> np.ndarray:
        values = values_of(path)
        return instances_of(np.where(values == VOID, 0, values))

    return decode


LAYOUT = Layout(
    "voc",
    "PASCAL VOC 2012",
    home="http://host.robots.ox.ac.uk/pascal/VOC/voc2012/",
    licence="Flickr terms of use (images), research use",
    looks_for="JPEGImages/ beside SegmentationClass/ and ImageSets/Segmentation/",
    read=_read,
    detect=_detect,
    targets=("instances",),
    classes="21",
)
