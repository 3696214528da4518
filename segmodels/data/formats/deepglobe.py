"""DeepGlobe land cover: seven kinds of land from satellites.

Demir et al., "DeepGlobe 2018: A Challenge to Parse the Earth through Satellite Images" (CVPR Workshops 2018). Colours:
`class_dict.csv`; the challenge's page says that masks are compressed and each channel counts from 128 on as 255. Black
(unknown) is void.

    train/855_sat.jpg train/855_mask.png            also without `train/`
    {training_data,test_data}/{images,masks}/…      a copy on Kaggle

`valid/` and `test/` have no masks and are not read; splits are dealt. The road challenge has the same names: its masks
are black and white, and what has no third colour in its first masks is not this layout.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import packed_colors
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, paired
from segmodels.data.formats.truth import by_corner

FOLDERS = (
    ("train", "train", None), (".", ".", None),
    ("training_data/images", "training_data/masks", "train"), ("test_data/images", "test_data/masks", "test"),
)  # fmt: skip
VOID, LOOKED = (0, 0, 0), 8


def _present(root: Path) -> list[tuple[Path, Path, str | None]]:
    known = [(root / images, root / masks, split) for images, masks, split in FOLDERS]
    return [entry for entry in known if any(entry[1].glob("[0-9]*_mask.png"))]


def _detect(root: Path) -> Fit | None:
    for images, masks, _ in _present(root):
        if any(_colored(path) for path in islice(sorted(masks.glob("[0-9]*_mask.png")), LOOKED)):
            there = any(images.glob("[0-9]*_sat.jpg"))
            return Fit(f"{masks.relative_to(root).as_posix()}/*_mask.png in colours", "" if there else "*_sat.jpg")
    return None


def _colored(path: Path) -> bool:
    colors = packed_colors(path)
    high = ((colors >> 23) & 1) + ((colors >> 15) & 1) + ((colors >> 7) & 1)
    return bool(np.isin(high, (1, 2)).any())


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("deepglobe")

    def samples() -> Iterator[Raw]:
        for images, masks, split in _present(root):
            photos = (p for p in image_files(images) if p.parent == images and p.stem.endswith("_sat"))

            def mask(image: Path, masks: Path = masks) -> Path:
                return masks / image.name.replace("_sat.jpg", "_mask.png")

            for image, label in paired(photos, mask, job, "mask"):
                yield Raw(image.stem.removesuffix("_sat"), image, by_corner(label, table.colors(VOID)), split)

    return Reading(table.classes, samples(), "deepglobe")


LAYOUT = Layout(
    "deepglobe",
    "DeepGlobe land cover",
    home="http://deepglobe.org",
    licence="research use (DigitalGlobe terms)",
    looks_for="ID_sat.jpg beside ID_mask.png, in colours",
    read=_read,
    detect=_detect,
    splits="dealt, or those of folders",
    classes="6",
)
