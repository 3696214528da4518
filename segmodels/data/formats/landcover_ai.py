"""LandCover.ai: buildings, woodland, water and roads of Poland from above.

Boguszewski et al., "LandCover.ai: Dataset for Automatic Mapping of Buildings, Woodlands, Water and Roads from Aerial
Imagery" (CVPR Workshops 2021). Ids: the dataset's page; tiles and lists: `split.py` of the archive.

    images/M-33-20-D-c-4-2.tif   masks/M-33-20-D-c-4-2.tif            8 bits, 0..4
    output/M-33-20-D-c-4-2_0.jpg output/M-33-20-D-c-4-2_0_m.png       tiles of 512 pixels, which split.py writes
    {train,val,test}.txt                                              a tile a line

Where tiles are there, they are read. The lists deal tiles, so that whole sheets are dealt anew.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import SPLITS
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.data.formats.truth import listed

SHEET = "[MN]-3[34]-*"


def _detect(root: Path) -> Fit | None:
    tile, mask = first(root, f"output/{SHEET}_m.png"), first(root, f"masks/{SHEET}.tif")
    if tile is not None:
        lacks = "" if (root / "train.txt").is_file() else "train.txt"
        return Fit(tile.relative_to(root).as_posix(), lacks)
    there = first(root, f"images/{SHEET}.tif")
    if mask is None and there is None:
        return None
    lacks = "images/*.tif" if there is None else "masks/*.tif" if mask is None else ""
    return Fit((mask or there or root).relative_to(root).as_posix(), lacks)


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("landcover_ai")

    def samples() -> Iterator[Raw]:
        if first(root, f"output/{SHEET}_m.png"):
            for split in (s for s in SPLITS if (root / f"{s}.txt").is_file()):
                tiles = [root / "output" / f"{name}.jpg" for name in listed(root / f"{split}.txt")]
                for image, label in paired(tiles, named_alike(root / "output", "_m.png"), job):
                    yield Raw(image.stem, image, by_id(label, table.ids()), split, image.stem.rpartition("_")[0])
            return
        for image, label in paired(image_files(root / "images"), named_alike(root / "masks", ".tif"), job):
            yield Raw(image.stem, image, by_id(label, table.ids()))

    return Reading(table.classes, samples(), "landcover_ai")


LAYOUT = Layout(
    "landcover_ai",
    "LandCover.ai",
    home="https://landcover.ai.linuxpolska.com",
    licence="CC BY-NC-SA 4.0",
    looks_for="masks/*.tif beside images/*.tif, or output/*_m.png with train.txt",
    read=_read,
    detect=_detect,
    splits="official for tiles; sheets are dealt",
    classes="5",
)
