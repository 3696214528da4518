"""PASCAL Context: all of VOC 2010's training and validation images labelled, the 59 frequent classes.

Mottaghi et al., "The Role of Context for Object Detection and Semantic Segmentation in the Wild" (CVPR 2014). Which of
the 459 classes the 59 are: mmsegmentation's `pascal_context.py`; the others are void. `data.format:
pascal_context_459` reads all.

    trainval/2008_000002.mat                        variable LabelMap, 16 bits, 1..459
    labels.txt                                      `1: accordion` a line
    VOC2010/JPEGImages/2008_000002.jpg              here, in VOC2010/ or in VOCdevkit/VOC2010/
    VOC2010/ImageSets/Main/{train,val}.txt          an id a line; without them splits are dealt
    SegmentationClassContext/2008_000002.png        in their place, what mmsegmentation makes of them: 0 = void, 1..59
    ImageSets/SegmentationContext/{train,val}.txt
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.decode import by_id, looked_up
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.data.formats.truth import listed, matlab

CONVERTED = "SegmentationClassContext"
PLACES, LISTS = (".", "VOC2010", "VOCdevkit/VOC2010"), ("ImageSets/SegmentationContext", "ImageSets/Main")
ALL = range(460)


def _detect(root: Path) -> Fit | None:
    label = first(root, "trainval/20[01][0-9]_*.mat") or first(root, f"{CONVERTED}/*.png")
    if label is None:
        return None
    lacks = "" if _photos(root) else "JPEGImages/ of VOC 2010 (here, or in VOC2010/)"
    return Fit(label.relative_to(root).as_posix(), lacks)


def _photos(root: Path) -> Path | None:
    return next((root / place for place in PLACES if first(root, f"{place}/JPEGImages/*.jpg")), None)


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("pascal_context59")
    if first(root, f"{CONVERTED}/*.png"):
        ids = {0: 255, 255: 255} | {n + 1: n for n in range(len(table.rows))}
        labels = {p.stem: by_id(p, ids) for p in sorted((root / CONVERTED).glob("*.png"))}
    else:
        labels = {p.stem: map_of(p, table.ids(*ALL)) for p in sorted((root / "trainval").glob("*.mat"))}
    return Reading(table.classes, samples(root, labels, job), "pascal_context")


def samples(root: Path, labels: dict[str, Decoder], job: Job) -> Iterator[Raw]:
    """Yield the images that have a label, with the splits of the first lists that are there."""
    voc = _photos(root) or root
    folder = next((voc / name for name in LISTS if (voc / name / "train.txt").is_file()), None)
    splits = {i.split()[0]: s for s in ("train", "val") if folder for i in listed(folder / f"{s}.txt")}
    for name, label in labels.items():
        image = voc / "JPEGImages" / f"{name}.jpg"
        if image.is_file():
            yield Raw(name, image, label, splits.get(name))
        else:
            job.problems.append(f"{image}: is missing, and {name} has a label; add it, or remove the label")


def map_of(path: Path, ids: dict[int, int]) -> Decoder:
    """Decode a label of the authors with id of the 459 -> class index."""
    return partial(_map, path, ids)


def _map(path: Path, ids: dict[int, int]) -> np.ndarray:
    values = matlab(path).get("LabelMap")
    if not isinstance(values, np.ndarray) or values.ndim != 2:
        raise DatasetError(f"{path}: has no variable LabelMap of two dimensions; restore it from trainval.tar.gz")
    return looked_up(values.astype(np.int64), ids, lambda v: f"id {v}", path)


LAYOUT = Layout(
    "pascal_context",
    "PASCAL Context, 59 classes",
    home="https://cs.stanford.edu/~roozbeh/pascal-context/",
    licence="Flickr terms of use (images), research use",
    looks_for="trainval/*.mat (or SegmentationClassContext/) beside JPEGImages/ of VOC 2010",
    read=_read,
    detect=_detect,
    over=("voc",),
    splits="official where ImageSets/ of VOC 2010 is there; otherwise dealt",
    classes="59",
)
