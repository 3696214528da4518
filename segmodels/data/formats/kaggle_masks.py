"""Kaggle's `train/` beside `train_masks/`, as the Carvana competition has it: black and white masks, GIF or PNG.

kaggle.com/c/carvana-image-masking-challenge, "Data": `train_masks/X_mask.gif` belongs to `train/X.jpg`. The same for
other names of a folder with `_masks` behind it. `test/` has no masks and is not read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import ClassInfo
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_mask
from segmodels.data.formats.folder import SPLIT_FOLDERS
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, paired

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("foreground", (255, 255, 255)))


def _folders(root: Path) -> list[tuple[Path, Path]]:
    masks = sorted(d for d in root.glob("*_masks") if d.is_dir())
    return [(d.with_name(d.name.removesuffix("_masks")), d) for d in masks]


def _detect(root: Path) -> Fit | None:
    for images, masks in _folders(root):
        mask = next(iter(masks.glob("*_mask.*")), None)
        if mask is not None:
            lacks = "" if images.is_dir() else f"{images.name}/"
            return Fit(mask.relative_to(root).as_posix(), lacks)
    return None


def _read(root: Path, job: Job) -> Reading:
    def samples() -> Iterator[Raw]:
        for images, masks in _folders(root):
            ending = next(iter(masks.glob("*_mask.*"))).suffix

            def partner(image: Path, masks: Path = masks, ending: str = ending) -> Path:
                return masks / f"{image.stem}_mask{ending}"

            split = SPLIT_FOLDERS.get(images.name.lower()) if len(_folders(root)) > 1 else None
            for image, mask in paired(image_files(images), partner, job, "mask"):
                # Carvana has sixteen views of each car, hash_01.jpg to hash_16.jpg.
                car, _, view = image.stem.rpartition("_")
                yield Raw(image.stem, image, by_mask(mask), split, car if view.isdecimal() else "")

    return Reading(CLASSES, samples())


LAYOUT = Layout(
    "kaggle_masks",
    "train/ beside train_masks/ (Carvana)",
    home="https://www.kaggle.com/c/carvana-image-masking-challenge",
    licence="",
    looks_for="train_masks/X_mask.gif (or .png) beside train/X.jpg",
    read=_read,
    detect=_detect,
    splits="dealt, views of one car together",
    classes="2",
)
