"""NYU Depth v2, the 1449 labelled images, with 13 or 40 classes as image files.

Silberman, Hoiem, Kohli, Fergus, "Indoor Segmentation and Support Inference from RGBD Images" (ECCV 2012). 13 classes:
Couprie et al. (2013), files of ankurhanda/nyuv2-meta-data. 40 classes: Gupta, Arbeláez, Malik (CVPR 2013). 0 is
unlabelled, which is void. Which of the numbers 1..1449 are for testing: `splits.mat` of the authors.

    train/nyu_rgb_0003.png   train_labels_13/new_nyu_class13_0003.png     folders of other names, too
    image/0003.png           label40/0003.png                             (images, rgb, color; labels40, seg40)
    RGB/2.jpg Label/2.png train.txt test.txt                              in a folder whose name has `nyu`

Files of the first two are numbered from 1. Of the third the lists give the splits; a list's entry is an image or its
number. `nyu_depth_v2_labeled.mat` is a MATLAB file of version 7.3 and is not read; image files of depth have no unit
that all share, and are not read either.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.data.formats.truth import listed

MATLAB, UNLABELLED = "nyu_depth_v2_labeled.mat", 0
CLASS13, DEPTHS = ("", "*label*/", "*annot*/", "*/*label*/"), ("", "*/", "*/*/")
IMAGES, LABELS = ("image", "images", "rgb", "RGB", "color"), ("label40", "labels40", "label_40", "seg40")
NUMBER = re.compile(r"(\d+)$")


def _pairs_of_folders(root: Path) -> tuple[Path, Path] | None:
    labels = next((root / name for name in LABELS if first(root, f"{name}/**/*.png")), None)
    if labels is None and "nyu" in root.name.lower() and first(root, "Label/*.png"):
        labels = root / "Label"
    images = next((root / name for name in IMAGES if (root / name).is_dir()), None)
    return (images, labels) if labels and images else None


def _detect(root: Path) -> Fit | None:
    label = next((p for depth in CLASS13 if (p := first(root, f"{depth}new_nyu_class13_*.png"))), None)
    if label is not None:
        images = any(first(root, f"{depth}nyu_rgb_*.png") for depth in DEPTHS)
        return Fit(label.relative_to(root).as_posix(), "" if images else "nyu_rgb_*.png")
    if (folders := _pairs_of_folders(root)) is not None:
        return Fit(f"{folders[0].name}/ and {folders[1].name}/")
    return Fit(MATLAB) if (root / MATLAB).is_file() else None


def _read(root: Path, job: Job) -> Reading:
    folders = _pairs_of_folders(root)
    if first(root, "**/new_nyu_class13_*.png"):
        files = list(image_files(root))
        images = {n: p for p in files if p.name.startswith("nyu_rgb_") and (n := _number(p)) is not None}
        labels = {n: p for p in files if re.match(r"new_nyu_class13_\d", p.name) and (n := _number(p)) is not None}
        table, splits = Table.official("nyu13"), _official()
    elif folders is not None:
        images, labels = ({n: p for p in image_files(f) if (n := _number(p)) is not None} for f in folders)
        lists = [path for name in ("train", "test") if (path := root / f"{name}.txt").is_file()]
        table, splits = Table.official("nyu40"), _of_lists(lists) if lists else _official()
        if not lists and (0 in labels or max(labels, default=0) > 1449):
            job.problems.append(f"{folders[1]}: its files are not numbered 1..1449; add train.txt and test.txt")
    else:
        raise DatasetError(
            f"{root / MATLAB}: is a MATLAB file of version 7.3 (HDF5), which is not read; give the images and labels "
            "that others have made of it, e.g. nyu_rgb_*.png and those of github.com/ankurhanda/nyuv2-meta-data"
        )
    return Reading(table.classes, _samples(images, labels, table, splits, job), "nyuv2")


def _samples(
    images: dict[int, Path], labels: dict[int, Path], table: Table, splits: dict[int, str], job: Job
) -> Iterator[Raw]:
    job.left_out([images[n] for n in sorted(images.keys() - labels.keys())], "these have no label")
    for number, label in sorted(labels.items()):
        if number not in images:
            job.problems.append(f"{label}: has no image; add the one of number {number}, or remove the label")
        else:
            ids = table.ids(UNLABELLED, 255)
            yield Raw(f"{number:04d}", images[number], by_id(label, ids), splits.get(number, "train"))


def _number(path: Path) -> int | None:
    match = NUMBER.search(path.stem)
    return int(match[1]) if match else None


def _of_lists(lists: list[Path]) -> dict[int, str]:
    entries = [(Path(re.split(r"[\s,]", line)[0]), path.stem) for path in lists for line in listed(path)]
    return {number: split for entry, split in entries if (number := _number(entry)) is not None}


def _official() -> dict[int, str]:
    path = Path(__file__).with_name("tables") / "nyuv2_test.csv"
    rows = csv.DictReader(line for line in path.read_text().splitlines() if not line.startswith("#"))
    return {n: "test" for row in rows for n in range(int(row["first"]), int(row["last"]) + 1)}


LAYOUT = Layout(
    "nyuv2",
    "NYU Depth v2",
    home="https://cs.nyu.edu/~fergus/datasets/nyu_depth_v2.html",
    licence="research use",
    looks_for="new_nyu_class13_*.png beside nyu_rgb_*.png, or label40/ beside image/",
    read=_read,
    detect=_detect,
    classes="13 or 40",
)
