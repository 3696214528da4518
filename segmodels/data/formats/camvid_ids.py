"""CamVid as fastai publishes it: ids of the 31 classes and Void, in the order of `codes.txt`.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video" (2009); the archives camvid.tgz and camvid_tiny.tgz of
`URLs.CAMVID` and `URLs.CAMVID_TINY` (fastai, `data/external.py`).

    images/0006R0_f02280.png
    labels/0006R0_f02280_P.png      8 bits; the class whose name stands in that line of codes.txt, from 0
    codes.txt
    valid.txt                       names of the images of `val`; camvid_tiny has none, and videos are dealt
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired
from segmodels.data.formats.truth import listed

NAMES = ("0[0-9]*_[0-9f]*_P.png", "Seq05VD_f[0-9]*_P.png")
VOID = "Void"


def _detect(root: Path) -> Fit | None:
    label = next((p for name in NAMES if (p := first(root, f"labels/{name}"))), None)
    if label is None:
        return None
    lacks = [name for name in ("images", "codes.txt") if not (root / name).exists()]
    return Fit(label.relative_to(root).as_posix(), " and ".join(lacks))


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("camvid32")
    places = {info.name: index for index, info in enumerate(table.classes)} | {VOID: 255}
    codes = listed(root / "codes.txt")
    unknown = next((name for name in codes if name not in places), None)
    if unknown is not None:
        raise DatasetError(f"{root / 'codes.txt'}: {unknown!r} is no class of CamVid; restore the file")
    ids = {number: places[name] for number, name in enumerate(codes)}
    held = set(listed(root / "valid.txt")) if (root / "valid.txt").is_file() else None

    def samples() -> Iterator[Raw]:
        for image, label in paired(image_files(root / "images"), named_alike(root / "labels", "_P.png"), job):
            split = None if held is None else "val" if image.name in held else "train"
            video = image.stem.rpartition("_")[0]
            yield Raw(image.stem, image, by_id(label, ids), split, video, video)

    return Reading(table.classes, samples(), "camvid")


LAYOUT = Layout(
    "camvid_ids",
    "CamVid, 31 classes by id (fastai)",
    home="https://docs.fast.ai/data.external.html",
    licence="research use",
    looks_for="labels/*_P.png beside images/ and codes.txt",
    read=_read,
    detect=_detect,
    splits="of valid.txt; otherwise videos are dealt",
    classes="31",
)
