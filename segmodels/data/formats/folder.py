"""Somebody's own data: a folder with images and labels is enough.

    images/ labels/                       or masks/, annotations/, gt/; nested folders are fine
    images/train/ labels/train/           splits, when all folders in images/ are named so
    train/images/ train/labels/           or this way
    classes.txt                           optional, see `classes.py`

A label belongs to the image with the same path and stem, up to an ending such as `_mask`, `_label`, `_L` or `_gt`. It
holds class ids (8 bit, palette), black and white, or the colours of the classes; see `coding.py`. Splits that the data
does not have are dealt by the hash of the id.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from segmodels.data.folder import SPLITS, DatasetError, DatasetWriter
from segmodels.data.formats import classes
from segmodels.data.formats.coding import Coding, decide, survey
from segmodels.data.formats.common import Splitting, image_files, refuse

LOOKS_FOR = "images/ beside labels/, masks/ or annotations/, at the top or in train/, val/ and test/"
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "annotation", "gt", "segmentationclass")
SPLIT_FOLDERS = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
    "testing": "test",
}
LABEL_ENDING = re.compile(
    r"[_-](masks?|labels?|labelids|labeltrainids|l|gt|seg|segmentation|annotation)$", re.IGNORECASE
)
IMAGE_ENDING = re.compile(r"[_-](images?|img|rgb|sat)$", re.IGNORECASE)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Part:
    """A folder of images with its folder of labels; `split` is None where the data has no splits."""

    split: str | None
    images: Path
    labels: Path


@dataclass(frozen=True)
class Pair:
    split: str | None
    id: str
    image: Path
    label: Path


def detect(root: Path) -> bool:
    """Tell whether `root` has images and labels in folders named so."""
    return bool(_parts(root))


def convert(root: Path, out: Path, *, name: str, source: Mapping[str, Any], splitting: Splitting) -> None:
    """Write the dataset folder `out`.

    Raises:
        DatasetError: An image has no label or two, or a label is unreadable or has an unknown colour; all are listed.
    """
    convert_parts(_parts(root), root, out, name=name, source=source, splitting=splitting)


def convert_parts(
    parts: Sequence[Part], root: Path, out: Path, *, name: str, source: Mapping[str, Any], splitting: Splitting
) -> None:
    """Write the dataset folder `out` of folders of images and labels; `root` is looked into for a list of classes.

    Raises:
        DatasetError: As `convert` does.
    """
    problems: list[str] = []
    pairs = [pair for part in parts for pair in _pairs(part, problems)]
    refuse(problems)
    if not pairs:
        raise DatasetError(f"{root}: has no image with a label; looked for {LOOKS_FOR}")
    coding = _coding(root, [pair.label for pair in pairs])
    splits = _splits(pairs, splitting)
    with DatasetWriter(out, name, coding.classes, source=source) as writer:
        for pair in pairs:
            try:
                writer.add(splits[pair.split, pair.id], pair.id, pair.image, coding.ids(pair.label))
            except DatasetError as error:
                problems.append(str(error))
        refuse(problems)


def _coding(root: Path, labels: list[Path]) -> Coding:
    listed = classes.find(root)
    named = classes.read(listed) if listed else None
    return decide(survey(labels), named, str(root))


def _splits(pairs: list[Pair], splitting: Splitting) -> dict[tuple[str | None, str], str]:
    """Return the split of each pair: the data's own; `val` is dealt from `train` where the data has none."""
    given = {pair.split for pair in pairs}
    splits = {(pair.split, pair.id): pair.split or "train" for pair in pairs}
    if "val" not in given:
        if given != {None}:
            splitting = replace(splitting, test_fraction=0.0)
        dealt = splitting.assign(i for (split, i) in splits if split in (None, "train"))
        splits |= {(split, i): dealt[i] for (split, i) in splits if split in (None, "train")}
    return splits


def _parts(root: Path) -> list[Part]:
    if pair := _image_and_label_folder(root):
        images, labels = pair
        inner = {d.name: SPLIT_FOLDERS.get(d.name.lower()) for d in images.iterdir() if d.is_dir()}
        if inner and all(inner.values()) and not any(p.parent == images for p in image_files(images)):
            parts = [Part(split, images / folder, labels / folder) for folder, split in inner.items()]
            return _ordered([part for part in parts if part.labels.is_dir()])
        return [Part(None, images, labels)]
    parts = []
    for folder in _folders(root):
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split and (pair := _image_and_label_folder(folder)):
            parts.append(Part(split, *pair))
    return _ordered(parts)


def _ordered(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: SPLITS.index(part.split or "train"))


def _image_and_label_folder(root: Path) -> tuple[Path, Path] | None:
    by_name = {folder.name.lower(): folder for folder in _folders(root)}
    images = next((by_name[n] for n in IMAGE_FOLDERS if n in by_name), None)
    labels = next((by_name[n] for n in LABEL_FOLDERS if n in by_name), None)
    return (images, labels) if images and labels else None


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pairs(part: Part, problems: list[str]) -> list[Pair]:
    exact: dict[str, list[Path]] = {}
    loose: dict[str, list[Path]] = {}
    for label in image_files(part.labels):
        stem = _stem(label, part.labels)
        exact.setdefault(stem, []).append(label)
        loose.setdefault(LABEL_ENDING.sub("", stem), []).append(label)
    pairs, used = [], set()
    for image in image_files(part.images):
        stem = _stem(image, part.images)
        found = exact.get(stem) or loose.get(stem) or loose.get(IMAGE_ENDING.sub("", stem)) or []
        if len(found) == 1:
            pairs.append(Pair(part.split, stem.replace("/", "_"), image, found[0]))
        elif found:
            problems.append(f"{image}: has two labels, {found[0]} and {found[1]}; remove one of them")
        else:
            wanted = part.labels / f"{stem}.png"
            problems.append(f"{image}: has no label; {wanted} is missing: add it, or remove the image")
        used.update(found)
    orphans = [label for labels in exact.values() for label in labels if label not in used]
    if orphans:
        log.warning(
            "%s: %d labels belong to no image and are left out, %s first", part.labels, len(orphans), orphans[0]
        )
    return pairs


def _stem(path: Path, root: Path) -> str:
    return path.relative_to(root).with_suffix("").as_posix()
