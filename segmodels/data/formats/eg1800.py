"""EG1800: portraits and their background, cropped to 600 x 800.

Shen et al., "Automatic Portrait Segmentation for Image Stylization" (Eurographics 2016). The forms are those of
PortraitNet and of SINet, whose authors published what was left of the images. Masks hold 0 and 1, or 0 and 255; soft
borders count from 128 on as portrait.

    Images/00001.png             Labels/00001.png            eg1800_train.txt eg1800_test.txt
    images_data_crop/00001.jpg   GT_png/00001_mask.png       EG1800_train.txt EG1800_val.txt (train.txt val.txt)

A list has a name a line; only listed images are read, and without lists all are, and splits are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import SPLITS, ClassInfo
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import values_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first, named_alike, paired
from segmodels.data.formats.truth import listed

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("portrait", (255, 255, 255)))
FORMS = (("Images", "Labels", ".png"), ("images_data_crop", "GT_png", "_mask.png"))
LISTS = ("eg1800_{}.txt", "EG1800_{}.txt", "{}.txt")
HALF = 128


def _lists(root: Path) -> dict[str, Path]:
    named_lists = [(s, root / name.format(s)) for s in SPLITS for name in LISTS]
    return {split: path for split, path in reversed(named_lists) if path.is_file()}


def _detect(root: Path) -> Fit | None:
    named = "eg1800" in root.name.lower() or any("eg1800" in path.name.lower() for path in _lists(root).values())
    for images, labels, ending in FORMS:
        label = first(root, f"{labels}/[0-9]*{ending}")
        if label is not None and (named or labels == "GT_png"):
            return Fit(label.relative_to(root).as_posix(), "" if first(root, f"{images}/[0-9]*") else f"{images}/")
    return None


def _read(root: Path, job: Job) -> Reading:
    images, labels, ending = next(form for form in FORMS if first(root, f"{form[1]}/[0-9]*{form[2]}"))
    splits = {Path(line.split()[0]).stem: split for split, path in _lists(root).items() for line in listed(path)}

    def samples() -> Iterator[Raw]:
        photos = [p for p in image_files(root / images) if not splits or p.stem in splits]
        for image, label in paired(photos, named_alike(root / labels, ending), job, "mask"):
            yield Raw(image.stem, image, partial(_portrait, label), splits.get(image.stem))

    return Reading(CLASSES, samples(), "eg1800")


def _portrait(path: Path) -> np.ndarray:
    values = values_of(path)
    return (values >= (HALF if values.max() > 1 else 1)).astype(np.uint8)


LAYOUT = Layout(
    "eg1800",
    "EG1800 (portraits)",
    home="http://xiaoyongshen.me/webpage_portrait/index.html",
    licence="research use",
    looks_for="Labels/ beside Images/ and eg1800_train.txt, or GT_png/ beside images_data_crop/",
    read=_read,
    detect=_detect,
    splits="of its lists; otherwise dealt",
    classes="2",
)
