"""LaPa: 11 parts of faces.

Liu et al., "A New Dataset and Boundary-Attention Semantic Segmentation for Face Parsing" (AAAI 2020). Ids: the authors'
README, github.com/JDAI-CV/lapa-dataset.

    {train,val,test}/images/X.jpg
    {train,val,test}/labels/X.png          8 bits, 0..10
    {train,val,test}/landmarks/X.txt       106 points; not read, but they tell the layout, as a folder called LaPa does
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import SPLITS
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, fits, named_alike, paired

LANDMARKS, LABELS, IMAGES = "*/landmarks/*.txt", "*/labels/*.png", "*/images/*.jpg"


def _detect(root: Path) -> Fit | None:
    return fits(root, (LABELS,) if "lapa" in root.name.lower() else (LANDMARKS, LABELS), (IMAGES,))


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("lapa")

    def samples() -> Iterator[Raw]:
        for split in SPLITS:
            images = image_files(root / split / "images")
            for image, label in paired(images, named_alike(root / split / "labels"), job):
                yield Raw(image.stem, image, by_id(label, table.ids()), split)

    return Reading(table.classes, samples(), "lapa")


LAYOUT = Layout(
    "lapa",
    "LaPa",
    home="https://github.com/JDAI-CV/lapa-dataset",
    licence="non-commercial research",
    looks_for="{train,val,test}/{images,labels,landmarks}/",
    read=_read,
    detect=_detect,
    classes="11",
)
