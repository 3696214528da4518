"""LoveDA: land cover of three cities from above, urban and rural.

Wang, Zheng, Ma, Lu, Zhong, "LoveDA: A Remote Sensing Land-Cover Dataset for Domain Adaptive Semantic Segmentation"
(NeurIPS Datasets and Benchmarks 2021). Ids: the authors' README; 0 is no data, which is void.

    {Train,Val}/{Urban,Rural}/images_png/0.png
    {Train,Val}/{Urban,Rural}/masks_png/0.png      8 bits, 0..7
    img_dir/{train,val}/0.png ann_dir/…            what mmsegmentation makes of it, in a folder called loveDA

`Test` has no public labels and is not read.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired

NO_DATA = 0
PARTS = {"Train": "train", "Val": "val", ".": None}
CONVERTED = ("train", "val")


def _folders(root: Path) -> list[tuple[Path, Path, str | None]]:
    """Return folders of images, those of their labels, and their splits."""
    places = [(root / part / scene, split) for part, split in PARTS.items() for scene in ("Urban", "Rural")]
    own: list[tuple[Path, Path, str | None]] = [(p / "images_png", p / "masks_png", s) for p, s in places]
    if "loveda" in root.name.lower():
        own += [(root / "img_dir" / s, root / "ann_dir" / s, s) for s in CONVERTED]
    return [entry for entry in own if first(entry[1], "[0-9]*.png")]


def _detect(root: Path) -> Fit | None:
    folders = _folders(root)
    if not folders:
        return None
    lacking = [images for images, _, _ in folders if not images.is_dir()]
    lacks = lacking[0].relative_to(root).as_posix() + "/" if lacking else ""
    return Fit(folders[0][1].relative_to(root).as_posix() + "/", lacks)


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("loveda")

    def samples() -> Iterator[Raw]:
        for images, labels, split in _folders(root):
            for image, label in paired(image_files(images), named_alike(labels), job):
                yield Raw(image.stem, image, by_id(label, table.ids(NO_DATA)), split)

    return Reading(table.classes, samples(), "loveda")


LAYOUT = Layout(
    "loveda",
    "LoveDA",
    home="https://github.com/Junjue-Wang/LoveDA",
    licence="CC BY-NC-SA 4.0",
    looks_for="{Train,Val}/{Urban,Rural}/masks_png/ beside images_png/",
    read=_read,
    detect=_detect,
    classes="7",
)
