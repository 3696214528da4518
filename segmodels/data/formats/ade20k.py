"""ADE20K as the scene parsing challenge of 2016 has it, 150 classes.

Zhou et al., "Scene Parsing through ADE20K Dataset" (CVPR 2017). Ids and names: `objectInfo150.txt` of the archive.

    images/{training,validation}/ADE_*.jpg
    annotations/{training,validation}/ADE_*.png      8 bits, 0 = other, which is void, 1..150
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, named_alike, paired

SPLITS = {"training": "train", "validation": "val"}
OTHER = 0


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("ade20k")

    def samples() -> Iterator[Raw]:
        for folder, split in SPLITS.items():
            images = image_files(root / "images" / folder)
            for image, label in paired(images, named_alike(root / "annotations" / folder), job):
                yield Raw(image.stem, image, by_id(label, table.ids(OTHER)), split)

    return Reading(table.classes, samples(), "ade20k")


LAYOUT = Layout(
    "ade20k",
    "ADE20K, 150 classes",
    home="https://sceneparsing.csail.mit.edu",
    licence="BSD 3-Clause (annotations), non-commercial use of the images",
    looks_for="annotations/{training,validation}/ADE_*.png beside images/",
    read=_read,
    marks=("annotations/*/ADE_*.png",),
    needs=("images/*/ADE_*.jpg",),
    classes="150",
)
