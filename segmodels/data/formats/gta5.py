"""GTA5: frames of a game with Cityscapes' ids.

Richter, Vineet, Roth, Koltun, "Playing for Data" (ECCV 2016). Labels are palette PNGs whose indices are Cityscapes'
ids; 34 is the licence plate. Splits: `split.mat` of the authors, keys trainIds, valIds, testIds.

    images/00001.png
    labels/00001.png
    split.mat            here, or in `read_mapping/`

Pairs of different sizes, of which there are a few, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from segmodels.data.folder import reading
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, image_size
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.data.formats.truth import matlab
from segmodels.data.images import open_image

ROAD, CAR = (128, 64, 128), (0, 0, 142)


def _detect(root: Path) -> Fit | None:
    label = first(root, "labels/[0-9][0-9][0-9][0-9][0-9].png")
    if label is None or first(root, "images/[0-9][0-9][0-9][0-9][0-9].png") is None:
        return None
    with reading(label, "a label"), open_image(label) as image:
        palette = image.getpalette() or [] if image.mode == "P" else []
    if tuple(palette[21:24]) != ROAD or tuple(palette[78:81]) != CAR:
        return None
    return Fit(f"labels/{label.name}, whose palette is Cityscapes'")


def _read(root: Path, job: Job) -> Reading:
    table, splits = Table.official("cityscapes"), _splits(root)
    unequal = []

    def samples() -> Iterator[Raw]:
        for image, label in paired(image_files(root / "images"), named_alike(root / "labels"), job):
            if image_size(image) != image_size(label):
                unequal.append(image)
                continue
            ids = {35: 255} | table.ids(*range(35))
            yield Raw(image.stem, image, by_id(label, ids), splits.get(int(image.stem)) if splits else None)
        job.left_out(unequal, "image and label differ in size")

    return Reading(table.classes, samples(), "gta5")


def _splits(root: Path) -> dict[int, str]:
    path = next((f / "split.mat" for f in (root, root / "read_mapping") if (f / "split.mat").is_file()), None)
    if path is None:
        return {}
    held = matlab(path)
    keys = {"trainIds": "train", "valIds": "val", "testIds": "test"}
    return {int(i): split for key, split in keys.items() for i in np.ravel(held.get(key, ()))}


LAYOUT = Layout(
    "gta5",
    "GTA5 (Playing for Data)",
    home="https://download.visinf.tu-darmstadt.de/data/from_games/",
    licence="research and educational use",
    looks_for="images/00001.png beside labels/00001.png with Cityscapes' palette",
    read=_read,
    detect=_detect,
    splits="official where split.mat is there; otherwise dealt",
    classes="19",
)
