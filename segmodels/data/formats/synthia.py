"""SYNTHIA-RAND-CITYSCAPES: 9,400 rendered street scenes with 22 classes.

Ros et al., "The SYNTHIA Dataset" (CVPR 2016). Ids: the archive's README.txt. A label is a PNG of three channels of 16
bits, of which Pillow keeps the high bytes alone when it makes RGB of it; its low bytes are read by telling its decoder
that they come first. 0 is void.

    RGB/0000000.png
    GT/LABELS/0000000.png      first channel: class; second: number of the object
    GT/COLOR, Depth            not read: colours are for looking at; the unit of depth is not documented

There is no official split.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ImageFile

from segmodels.data.folder import DatasetError, reading
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import instances_of, looked_up
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, named_alike, paired
from segmodels.data.images import open_image

HIGH, LOW = "RGB;16B", "RGB;16L"
VOID = 0


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("synthia")

    def samples() -> Iterator[Raw]:
        for image, label in paired(image_files(root / "RGB"), named_alike(root / "GT/LABELS"), job):
            targets = {"instances": partial(_objects, label)}
            yield Raw(image.stem, image, partial(_classes, label, table), targets=targets)

    return Reading(table.classes, samples(), "synthia")


def _classes(path: Path, table: Table) -> np.ndarray:
    return looked_up(_channels(path)[..., 0], table.ids(VOID), lambda v: f"id {v}", path)


def _objects(path: Path) -> np.ndarray:
    return instances_of(_channels(path)[..., 1])


def _channels(path: Path) -> np.ndarray:
    """Return the pixels of a PNG of three channels of 16 bits, int32 `[H, W, 3]`."""
    high, low = (_bytes(path, order).astype(np.int32) for order in (HIGH, LOW))
    return (high << 8) + low


def _bytes(path: Path, order: str) -> np.ndarray:
    with reading(path, "a label"), open_image(path) as image:
        tiles = image.tile if isinstance(image, ImageFile.ImageFile) else []
        if not isinstance(image, ImageFile.ImageFile) or [tile.args for tile in tiles] != [HIGH]:
            raise DatasetError(f"{path}: is no PNG of three channels of 16 bits; restore it from the archive")
        image.tile = [tiles[0]._replace(args=order)]
        return np.asarray(image)


LAYOUT = Layout(
    "synthia",
    "SYNTHIA-RAND-CITYSCAPES",
    home="https://synthia-dataset.net",
    licence="CC BY-NC-SA 3.0",
    looks_for="RGB/ beside GT/LABELS/",
    read=_read,
    marks=("GT/LABELS/[0-9]*.png",),
    needs=("RGB/[0-9]*.png",),
    targets=("instances",),
    splits="dealt",
    classes="22",
)
