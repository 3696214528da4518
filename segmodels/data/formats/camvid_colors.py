"""CamVid as its authors publish it, 31 classes and Void by colour; its copies on Kaggle; and CamSeq01.

Brostow, Fauqueur, Cipolla, "Semantic object classes in video" (2009). Colours: `label_colors.txt` of the authors.

    701_StillsRaw_full/0001TP_006690.png    LabeledApproved_full/0001TP_006690_L.png    the authors' two archives
    train/X.png train_labels/X_L.png …      class_dict.csv                              Kaggle, with splits
    0016E5_07959.png 0016E5_07959_L.png     label_colors.txt                            CamSeq01, one folder

What stands in front of the last `_` of a name is the video: without splits its frames are dealt together.
`data.format: camvid_colors11` has SegNet's 11 classes instead.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first, named_alike, paired

VOID = (0, 0, 0)
FOLDERS = (
    ("701_StillsRaw_full", "LabeledApproved_full", None), ("train", "train_labels", "train"),
    ("val", "val_labels", "val"), ("test", "test_labels", "test"), (".", ".", None),
)  # fmt: skip
VIDEO = "0[0-9]*_[0-9]*_L.png"


def detect(root: Path) -> Fit | None:
    """Tell how a folder fits any of the three."""
    for images, labels, _ in FOLDERS:
        for name in (VIDEO, "Seq05VD_f[0-9]*_L.png"):
            if label := first(root, f"{labels}/{name}"):
                there = first(root, f"{images}/*[0-9].png") is not None
                if there or labels != ".":  # labels alone may belong to images anywhere
                    return Fit(label.relative_to(root).as_posix(), "" if there else f"{images}/*.png")
    return None


def samples(root: Path, job: Job, colors: dict[tuple[int, int, int], int]) -> Iterator[Raw]:
    """Yield the frames of whichever of the three it is."""
    for folder, labels, split in FOLDERS:
        images = (p for p in image_files(root / folder) if p.parent == root / folder and not p.stem.endswith("_L"))
        if first(root, f"{labels}/*_L.png"):
            for image, label in paired(images, named_alike(root / labels, "_L.png"), job):
                video = image.stem.rpartition("_")[0]
                yield Raw(image.stem, image, by_color(label, colors), split, video, video)


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("camvid32")
    return Reading(table.classes, samples(root, job, table.colors(VOID)), "camvid")


LAYOUT = Layout(
    "camvid_colors",
    "CamVid, 31 classes by colour",
    home="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
    licence="research use",
    looks_for="701_StillsRaw_full/ beside LabeledApproved_full/, or train/ beside train_labels/, with *_L.png",
    read=_read,
    detect=detect,
    splits="of folders; otherwise videos are dealt",
    classes="31",
)
