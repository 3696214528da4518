"""COCO-Stuff's pixel maps: 171 classes, the 80 things and 91 stuffs of COCO.

Caesar, Uijlings, Ferrari, "COCO-Stuff" (CVPR 2018); github.com/nightrome/cocostuff, `labels.txt`. Pixel maps are 8-bit
PNGs of id - 1, 0..181; eleven of the 182 ids are never used; 255 is unlabelled. mmsegmentation's `*_labelTrainIds.png`
have 0..170.

    train2017/000000000009.jpg    or images/train2017/
    train2017/000000000009.png    or annotations/train2017/, stuffthingmaps/train2017/
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, paired

SPLITS = {"train2017": "train", "val2017": "val"}
UNLABELLED = 255
YEARS = "[tv][ra][al]*2017"  # train2017, val2017, and not panoptic_val2017
NAME = "0" * 4 + "[0-9]" * 8


def _labels(root: Path) -> list[Path]:
    folders = (root / name for name in ("stuffthingmaps", "annotations", ""))
    return [folder for folder in folders if first(folder, f"{YEARS}/{NAME}*.png")]


def _detect(root: Path) -> Fit | None:
    folders = _labels(root)
    if not folders:
        return None
    images = first(root, f"{YEARS}/{NAME}.jpg") or first(root, f"images/{YEARS}/{NAME}.jpg")
    label = first(folders[0], f"{YEARS}/{NAME}*.png")
    return Fit(label.relative_to(root).as_posix(), "" if images else "train2017/*.jpg") if label else None


def _read(root: Path, job: Job) -> Reading:
    table, (labels, *_) = Table.official("cocostuff"), _labels(root)
    pixel_ids = {UNLABELLED: 255} | {raw - 1: index for index, (raw, _) in enumerate(table.rows)}
    train_ids = {UNLABELLED: 255} | {index: index for index in range(len(table.rows))}

    def samples() -> Iterator[Raw]:
        for folder, split in SPLITS.items():
            trained = first(labels, f"{folder}/*_labelTrainIds.png") is not None

            def partner(image: Path, folder: str = folder, trained: bool = trained) -> Path:
                return labels / folder / f"{image.stem}{'_labelTrainIds' * trained}.png"

            places = [root / folder, root / "images" / folder]
            images = (p for place in places for p in image_files(place) if p.suffix.lower() == ".jpg")
            for image, label in paired(images, partner, job):
                yield Raw(image.stem, image, by_id(label, train_ids if trained else pixel_ids), split)

    return Reading(table.classes, samples(), "cocostuff")


LAYOUT = Layout(
    "coco_stuff",
    "COCO-Stuff, 171 classes",
    home="https://github.com/nightrome/cocostuff",
    licence="CC BY 4.0 (annotations)",
    looks_for="train2017/*.jpg and stuffthingmaps/train2017/*.png",
    read=_read,
    detect=_detect,
    obtain="train2017.zip, val2017.zip and stuffthingmaps_trainval2017.zip",
    classes="171",
)
