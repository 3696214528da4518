"""KITTI semantics of 2015: 200 street scenes with Cityscapes' classes, as `data_semantics.zip` unpacks.

Abu Alhaija et al., "Augmented Reality Meets Computer Vision" (IJCV 2018). Its page: the data format conforms with
Cityscapes; instances: the development kit's readme.

    training/image_2/000000_10.png
    training/semantic/000000_10.png      8 bits, Cityscapes' ids 0..33; 19 of them are trained, the others are void
    training/instance/000000_10.png      16 bits, id * 256 + number, 0 where objects are not told apart
    training/semantic_rgb, testing/…     not read: colours are for looking at; the testing images have no labels

`val` is dealt from the training images.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import Decoder, Job, Layout, Raw, Reading, Table, named_alike, paired


def _read(root: Path, job: Job) -> Reading:
    table, folder = Table.official("cityscapes"), root / "training"

    def samples() -> Iterator[Raw]:
        images = (image for image in image_files(folder / "image_2") if not image.stem.endswith("_11"))
        for image, label in paired(images, named_alike(folder / "semantic"), job):
            numbers = folder / "instance" / label.name
            targets: dict[str, Decoder] = {"instances": partial(_objects, numbers)} if numbers.is_file() else {}
            yield Raw(image.stem, image, by_id(label, table.ids(*range(34))), "train", targets=targets)

    return Reading(table.classes, samples(), "kitti_semantic")


def _objects(path: Path) -> np.ndarray:
    values = values_of(path)
    return instances_of(np.where(values % 256 > 0, values, 0))


LAYOUT = Layout(
    "kitti_semantic",
    "KITTI semantics",
    home="https://www.cvlibs.net/datasets/kitti/eval_semseg.php",
    licence="CC BY-NC-SA 3.0",
    looks_for="training/image_2/ beside training/semantic/",
    read=_read,
    marks=("training/semantic/[0-9]*_10.png",),
    needs=("training/image_2/*_10.png",),
    targets=("instances",),
    splits="train; val is dealt",
    classes="19",
)
