"""SUN RGB-D: indoor scenes of four depth cameras, with 13 or 37 classes.

Song, Lichtenberg, Xiao, "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite" (CVPR 2015). 0 is unlabelled, which is
void. The forms: READMEs of ankurhanda/sunrgbd-meta-data and chrischoy/SUN_RGBD; numbers count from 1 in each split, but
for the labels of 37 classes, of which 1..5050 are for testing and 5051..10335 for training.

    train/img-000001.jpg       train_labels/img13labels-000001.png       or SUNRGBD-train_images/, train13labels/
    test/img-000001.jpg        sunrgbd_train_test_labels/img-000001.png  37 classes
    image/train/img-000001.jpg label13/train/… label37/train/… depth/train/00000001.png   1/10,000 of a metre
    SUNRGBD/kv1/…/image/*.jpg  beside sunrgbd_{training,testing}_images.txt, in whose order images are numbered;
    SUNRGBD/kv1/…/depth/*.png  16 bits, rotated by three: (v >> 3) | (v << 13) millimetres

Where labels of both are there, the 37 classes are read.
"""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, values_of
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.data.formats.truth import depth, listed
from segmodels.files import refused_path

FILE = re.compile(r"(img13labels|img)-(\d{6})\.(png|jpg)$")
PLACES, DEPTHS = ("", "*label*/", "*/*label*/", "label*/*/"), ("", "*/", "*/*/")
LISTS = {"train": "sunrgbd_training_images.txt", "test": "sunrgbd_testing_images.txt"}
UNLABELLED, TESTED = 0, 5050
Key = tuple[str, int]


def _detect(root: Path) -> Fit | None:
    names = [f"{d}{n}-[0-9][0-9][0-9][0-9][0-9][0-9].png" for d in PLACES for n in ("img13labels", "img")]
    label = next((p for name in names if (p := first(root, name))), None)
    if label is None:
        return None
    images = any(first(root, f"{d}img-*.jpg") for d in DEPTHS) or any(
        (root / name).is_file() for name in LISTS.values()
    )
    return Fit(label.relative_to(root).as_posix(), "" if images else "img-*.jpg")


def _key(path: Path, root: Path, number: int, whole: bool) -> Key | None:
    """Return split and number, as the folders' names or the number alone give them."""
    parts = "/".join(path.relative_to(root).parent.parts).lower()
    told = ["train" in parts.replace("train_test", ""), "test" in parts.replace("train_test", "")]
    if whole and number > TESTED:
        return "train", number - TESTED
    if told[0] != told[1]:
        return "train" if told[0] else "test", number
    return ("test", number) if whole else None


def _read(root: Path, job: Job) -> Reading:
    labels: dict[bool, dict[Key, Path]] = {True: {}, False: {}}
    images: dict[Key, Path] = {}
    for path in image_files(root):
        if (match := FILE.match(path.name)) is None:
            continue
        is_label, thirteen = match[3] == "png", match[1] == "img13labels"
        key = _key(path, root, int(match[2]), is_label and not thirteen)
        if key is None:
            job.problems.append(f"{path}: no folder is called train or test; put it into one of its split")
        elif is_label:
            labels[thirteen][key] = path
        else:
            images[key] = path
    for split, name in LISTS.items() if not images else ():
        if (root / name).is_file():
            lines = [line if not refused_path(line) else "" for line in listed(root / name)]
            images |= {(split, n): root / line for n, line in enumerate(lines, 1) if (root / line).is_file()}
    chosen = labels[False] or labels[True]
    table = Table.official("sunrgbd37" if labels[False] else "nyu13")
    for key in sorted(chosen.keys() - images.keys()):
        job.problems.append(f"{chosen[key]}: has no image; add number {key[1]} of {key[0]}, or remove the label")
    job.left_out([images[key] for key in sorted(images.keys() - chosen.keys())], "these have no label")
    samples = []
    for (split, n), image in sorted(images.items()):
        if (label := chosen.get((split, n))) is not None:
            targets, name = _targets(image, root, split, n), f"{split}_{n:06d}"
            samples.append(Raw(name, image, by_id(label, table.ids(UNLABELLED)), split, targets=targets))
    return Reading(table.classes, samples, "sun_rgbd", {"depth": {"unit": "m", "scale": 0.001}})


def _targets(image: Path, root: Path, split: str, number: int) -> dict[str, Decoder]:
    if (scaled := root / "depth" / split / f"{number:08d}.png").is_file():
        return {"depth": depth(scaled, 1e-4)}
    own = sorted((image.parent.parent / "depth").glob("*.png")) if image.parent.name == "image" else []
    return {"depth": partial(_rotated, own[0])} if own else {}


def _rotated(path: Path) -> np.ndarray:
    values = values_of(path).astype(np.uint16)
    return ((values >> 3) | (values << 13)).astype(np.float32) * np.float32(0.001)


LAYOUT = Layout(
    "sun_rgbd",
    "SUN RGB-D",
    home="https://rgbd.cs.princeton.edu",
    licence="research use",
    looks_for="img13labels-*.png or img-*.png beside img-*.jpg",
    read=_read,
    detect=_detect,
    targets=("depth",),
    classes="13 or 37",
)
