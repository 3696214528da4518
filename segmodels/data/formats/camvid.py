"""CamVid, 11 classes, in the layout of the SegNet tutorial.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video: A high-definition ground truth database" (2009);
360x480 with 11 classes as in Badrinarayanan, Kendall, Cipolla, "SegNet", arXiv:1511.00561.

    train/ trainannot/ val/ valannot/ test/ testannot/     images, and 8-bit PNGs of class ids; 11 = unlabelled
    train.txt val.txt test.txt                             `image label` a line

The original lists name `/SegNet/CamVid/train/x.png`; the prefix is dropped, and an image that was saved with another
suffix (`.jpg`) is found by its stem. What stands in front of the last `_` of a name is the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segmodels.data.folder import (
    IGNORE_INDEX,
    IMAGE_SUFFIXES,
    SPLITS,
    ClassInfo,
    DatasetError,
    DatasetWriter,
    read_label,
)
from segmodels.data.formats.common import Splitting, refuse, with_licence
from segmodels.files import read_text, refused_path

LOOKS_FOR = "train.txt beside train/ and trainannot/"
LICENCE = "CC BY-NC 4.0"
UNLABELLED = 11
CLASSES = (
    ClassInfo("sky", (128, 128, 128)),
    ClassInfo("building", (128, 0, 0)),
    ClassInfo("pole", (192, 192, 128)),
    ClassInfo("road", (128, 64, 128)),
    ClassInfo("pavement", (60, 40, 222)),
    ClassInfo("tree", (128, 128, 0)),
    ClassInfo("sign", (192, 128, 128)),
    ClassInfo("fence", (64, 64, 128)),
    ClassInfo("car", (64, 0, 128)),
    ClassInfo("pedestrian", (64, 64, 0)),
    ClassInfo("bicyclist", (0, 128, 192)),
)


def detect(root: Path) -> bool:
    """Tell whether `root` is the tutorial's `CamVid` folder."""
    return (root / "train.txt").is_file() and (root / "trainannot").is_dir()


def convert(root: Path, out: Path, *, name: str, source: Mapping[str, Any], splitting: Splitting) -> None:
    """Write the dataset folder `out`; the splits are those of the lists.

    Raises:
        DatasetError: A list names a file that is not there, or a label is unreadable; all of them are listed.
    """
    problems: list[str] = []
    with DatasetWriter(out, "camvid", CLASSES, source=with_licence(source, LICENCE)) as writer:
        for split in SPLITS:
            for image, label in _listed(root, split, problems):
                try:
                    writer.add(split, image.stem, image, _ids(label), sequence=image.stem.rpartition("_")[0])
                except DatasetError as error:
                    problems.append(str(error))
        refuse(problems)


def _listed(root: Path, split: str, problems: list[str]) -> Iterator[tuple[Path, Path]]:
    listing = root / f"{split}.txt"
    if not listing.is_file():
        return
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        if not line.strip():
            continue
        found = [_find(root, entry) for entry in line.split()]
        if len(found) != 2:
            problems.append(f"{listing}:{number}: {line!r} is not `image label`")
        elif found[0] is None or found[1] is None:
            missing = line.split()[0 if found[0] is None else 1]
            problems.append(f"{listing}:{number}: {missing} is not there; add the file or take the line out")
        else:
            yield found[0], found[1]


def _find(root: Path, entry: str) -> Path | None:
    """Return the file that a list means; only its folder and its stem count."""
    if refused_path(entry.lstrip("/")):
        return None
    named = PurePosixPath(entry)
    folder = root / named.parent.name
    for suffix in (named.suffix, *sorted(IMAGE_SUFFIXES)):
        if (path := folder / (named.stem + suffix)).is_file():
            return path
    return None


def _ids(label: Path) -> np.ndarray:
    ids = read_label(label)
    return np.where(ids == UNLABELLED, np.uint8(IGNORE_INDEX), ids)
