"""Somebody's own data: a folder with images and labels is enough.

    images/ labels/                       or masks/, annotations/, gt/; nested folders are fine
    images/train/ labels/train/           splits, when all folders in images/ are named so
    train/images/ train/labels/           or this way
    train_images/ train_labels/           or this, with the words in any order and a further one in both
    classes.txt                           optional, see `classes.py`

A label belongs to the image with the same path and stem, up to an ending such as `_mask`, `_label`, `_L` or `_gt`. It
holds class ids (8 bit, palette), black and white, or the colours of the classes; see `coding.py`. Splits that the data
does not have are dealt by the hash of the id.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from segmodels.data.folder import SPLITS, DatasetError
from segmodels.data.formats import classes
from segmodels.data.formats.coding import decide
from segmodels.data.formats.common import image_files, refuse
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.data.formats.raw_labels import survey

IMAGE_FOLDERS = ("images", "image", "imgs", "img", "jpegimages", "img_dir")
LABEL_FOLDERS = ("labels", "label", "masks", "mask", "annotations", "annotation", "gt", "segmentationclass", "ann_dir")
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
    r"[_-](masks?|(?:15)?labels?|labelids|labeltrainids|l|gt|seg|segmentation|annotation)$", re.IGNORECASE
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


def _detect(root: Path) -> Fit | None:
    parts = _parts(root)
    if not parts:
        return None
    names = (f"{p.images.relative_to(root).as_posix()}/ with {p.labels.relative_to(root).as_posix()}/" for p in parts)
    return Fit(", ".join(names))


def _read(root: Path, job: Job) -> Reading:
    return reading_of(_parts(root), root, job)


def reading_of(parts: Sequence[Part], root: Path, job: Job) -> Reading:
    """Return what folders of images and labels hold; `root` is looked into for a list of classes.

    Raises:
        DatasetError: An image has no label or two, or a label is unreadable or has an unknown colour; all are listed.
    """
    return read_pairs([pair for part in parts for pair in _pairs(part, job.problems)], root, job)


def read_pairs(pairs: Sequence[Pair], root: Path, job: Job) -> Reading:
    """Return what pairs of an image and a label hold; `root` is looked into for a list of classes.

    Raises:
        DatasetError: A label is unreadable or can be read in two ways; or something was wrong before; all are listed.
    """
    refuse(job.problems)
    if not pairs:
        raise DatasetError(f"{root}: has no image with a label; looked for {LAYOUT.looks_for}")
    listed = classes.find(root) or classes.find(pairs[0].label.parent)
    named = classes.read(listed) if listed else None
    coding = decide(survey([pair.label for pair in pairs]), named, job.choices, str(root))
    return Reading(coding.classes, (Raw(p.id, p.image, partial(coding.ids, p.label), p.split) for p in pairs))


def _parts(root: Path) -> list[Part]:
    if pair := _image_and_label_folder(root):
        images, labels = pair
        inner = {d.name: SPLIT_FOLDERS.get(d.name.lower()) for d in _folders(images)}
        if inner and all(inner.values()) and not any(p.parent == images for p in image_files(images)):
            parts = [Part(split, images / folder, labels / folder) for folder, split in inner.items()]
            return _ordered([part for part in parts if part.labels.is_dir()])
        return [Part(None, images, labels)]
    parts = []
    for folder in _folders(root):
        split = SPLIT_FOLDERS.get(folder.name.lower())
        if split and (pair := _image_and_label_folder(folder)):
            parts.append(Part(split, *pair))
    return _ordered(parts or _named_with_splits(root))


def _named_with_splits(root: Path) -> list[Part]:
    """Return parts of folders whose names hold both: `train_images/` beside `train_masks/`, `images_prepped_train/`."""
    images: dict[tuple[str, ...], Path] = {}
    labels: dict[tuple[str, ...], Path] = {}
    for folder in _folders(root):
        words = re.split(r"[_\W]+", folder.name.lower())
        splits = [SPLIT_FOLDERS[word] for word in words if word in SPLIT_FOLDERS]
        kinds = [word for word in words if word in (*IMAGE_FOLDERS, *LABEL_FOLDERS)]
        if len(splits) == len(kinds) == 1:
            rest = tuple(word for word in words if word not in kinds and word not in SPLIT_FOLDERS)
            (images if kinds[0] in IMAGE_FOLDERS else labels)[(splits[0], *rest)] = folder
    return [Part(key[0], images[key], labels[key]) for key in sorted(images.keys() & labels.keys())]


def _ordered(parts: list[Part]) -> list[Part]:
    return sorted(parts, key=lambda part: SPLITS.index(part.split or "train"))


def _image_and_label_folder(root: Path) -> tuple[Path, Path] | None:
    by_name = {folder.name.lower(): folder for folder in _folders(root)}
    images = next((by_name[n] for n in IMAGE_FOLDERS if n in by_name), None)
    there = [by_name[n] for n in LABEL_FOLDERS if n in by_name]
    # Annotations/ may have boxes alone, beside the folder of labels.
    labels = next((f for f in there if next(image_files(f), None)), None) if len(there) > 1 else None
    labels = labels or next(iter(there), None)
    return (images, labels) if images and labels else None


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pairs(part: Part, problems: list[str]) -> list[Pair]:
    exact: dict[str, list[Path]] = {}
    loose: dict[str, list[Path]] = {}
    labels = list(image_files(part.labels))
    if not labels and (other := next((p for p in sorted(part.labels.rglob("*.*")) if p.is_file()), None)) is not None:
        boxes = "; XML files as VOC's hold boxes" if other.suffix.lower() == ".xml" else ""
        problems.append(f"{part.labels}: holds {other.name}, but no image of labels{boxes}; add the images of labels")
        return []
    for label in labels:
        stem = stem_of(label, part.labels)
        exact.setdefault(stem, []).append(label)
        loose.setdefault(LABEL_ENDING.sub("", stem), []).append(label)
    pairs, used = [], set()
    for image in image_files(part.images):
        stem = stem_of(image, part.images)
        matching = exact.get(stem) or loose.get(stem) or loose.get(IMAGE_ENDING.sub("", stem)) or []
        if len(matching) == 1:
            pairs.append(Pair(part.split, stem.replace("/", "_"), image, matching[0]))
        elif matching:
            problems.append(f"{image}: has two labels, {matching[0]} and {matching[1]}; remove one of them")
        else:
            wanted = part.labels / f"{stem}.png"
            problems.append(f"{image}: has no label; {wanted} is missing: add it, or remove the image")
        used.update(matching)
    orphans = [label for group in exact.values() for label in group if label not in used]
    if orphans:
        log.warning(
            "%s: %d labels belong to no image and are left out, %s first", part.labels, len(orphans), orphans[0]
        )
    return pairs


def stem_of(path: Path, root: Path) -> str:
    """Return a file's path without its ending, in one of the two forms that Unicode has for letters with accents."""
    return unicodedata.normalize("NFC", path.relative_to(root).with_suffix("").as_posix())


LAYOUT = Layout(
    "folder",
    "images and labels in folders",
    home="",
    licence="",
    looks_for="images/ beside labels/, masks/ or annotations/, at the top or in train/, val/ and test/",
    read=_read,
    detect=_detect,
    splits="those of folders; otherwise dealt",
    classes="of classes.txt or of the labels",
    generic=True,
    coded=True,
)
