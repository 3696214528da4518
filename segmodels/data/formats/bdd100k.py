"""BDD100K, semantic segmentation: 10,000 frames of drives, Cityscapes' 19 classes.

Yu et al., "BDD100K: A Diverse Driving Dataset for Heterogeneous Multitask Learning" (CVPR 2020). Coding:
doc.bdd100k.com, "Label Format"; ids are Cityscapes' train ids, 255 is unknown, which is void.

    images/10k/{train,val}/X.jpg     labels/sem_seg/masks/{train,val}/X.png
    seg/images/{train,val}/X.jpg     seg/labels/{train,val}/X_train_id.png           the first release
    labels/ins_seg/bitmasks/{train,val}/X.png       RGBA; number of an object: 256 * B + A
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError, reading
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.data.images import open_image

FORMS = (
    ("images/10k", "labels/sem_seg/masks", ".png"), ("seg/images", "seg/labels", "_train_id.png"),
    ("images", "labels", "_train_id.png"),
)  # fmt: skip
VOID = 255


def _form(root: Path) -> tuple[Path, Path, str] | None:
    for images, labels, ending in FORMS:
        if first(root, f"{labels}/train/*{ending}") or first(root, f"{labels}/val/*{ending}"):
            return root / images, root / labels, ending
    return None


def _detect(root: Path) -> Fit | None:
    form = _form(root)
    if form is None:
        return None
    images, labels, _ = (part.relative_to(root).as_posix() if isinstance(part, Path) else part for part in form)
    return Fit(f"{labels}/", "" if form[0].is_dir() else f"{images}/")


def _read(root: Path, job: Job) -> Reading:
    table, form = Table.official("cityscapes"), _form(root)
    assert form is not None
    images, labels, ending = form
    ids = {n: n for n in range(len(table.rows))} | {VOID: VOID}

    def samples() -> Iterator[Raw]:
        for split in ("train", "val"):
            if not (labels / split).is_dir():
                continue
            for image, label in paired(image_files(images / split), named_alike(labels / split, ending), job):
                objects = root / "labels/ins_seg/bitmasks" / split / f"{image.stem}.png"
                targets = {"instances": partial(_objects, objects)} if objects.is_file() else {}
                yield Raw(image.stem, image, by_id(label, ids), split, targets=targets)

    return Reading(table.classes, samples(), "bdd100k")


def _objects(path: Path) -> np.ndarray:
    with reading(path, "a bitmask"), open_image(path) as image:
        if image.mode != "RGBA":
            raise DatasetError(f"{path}: mode {image.mode}; bitmasks of BDD100K are RGBA")
        pixels = np.asarray(image).astype(np.int32)
    return instances_of((pixels[..., 2] << 8) + pixels[..., 3])


LAYOUT = Layout(
    "bdd100k",
    "BDD100K, semantic segmentation",
    home="https://doc.bdd100k.com",
    licence="BDD100K terms (education and research)",
    looks_for="labels/sem_seg/masks/{train,val}/ beside images/10k/, or seg/labels/*/*_train_id.png",
    read=_read,
    detect=_detect,
    targets=("instances",),
    classes="19",
)
