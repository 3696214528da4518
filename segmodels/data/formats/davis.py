"""DAVIS 2016 and 2017: videos with their foreground, and its objects.

Perazzi et al., "A Benchmark Dataset and Evaluation Methodology for Video Object Segmentation" (CVPR 2016); Pont-Tuset
et al., "The 2017 DAVIS Challenge on Video Object Segmentation", arXiv:1704.00675. Coding: davis2017-evaluation.

    JPEGImages/480p/bear/00000.jpg         or Full-Resolution/, 1080p/
    Annotations/480p/bear/00000.png        2016: 0 and 255; 2017: palette PNG, number of the object, 255 = void
    Annotations_unsupervised/480p/…        in its place, where that alone is there
    ImageSets/2017/{train,val}.txt         a sequence a line
    ImageSets/480p/{train,val}.txt         2016: `/JPEGImages/480p/bear/00000.jpg /Annotations/…` a line

Classes are background and object; objects are the target `instances`. Without lists sequences are dealt; sequences in
no list (test-dev, test-challenge) are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import ClassInfo
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, values_of
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, first, named_alike, paired
from segmodels.data.formats.truth import listed
from segmodels.data.images import open_image

CLASSES = (ClassInfo("background", (0, 0, 0)), ClassInfo("object", (128, 0, 0)))
SIZES, FOLDERS = ("480p", "Full-Resolution", "1080p"), ("Annotations", "Annotations_unsupervised")
LISTS = ("2017", "480p", "1080p", "2016")
VOID = 255


def _truth(root: Path) -> Path | None:
    places = [f"{folder}/{size}" for folder in FOLDERS for size in SIZES]
    return next((root / place for place in places if first(root, f"{place}/*/[0-9]*.png")), None)


def _detect(root: Path) -> Fit | None:
    truth = _truth(root)
    if truth is None:
        return None
    images = root / "JPEGImages" / truth.name
    return Fit(truth.relative_to(root).as_posix() + "/", "" if images.is_dir() else f"JPEGImages/{truth.name}/")


def _read(root: Path, job: Job) -> Reading:
    truth = _truth(root)
    assert truth is not None
    numbered = _numbered(root, truth)
    ids = {n: int(n > 0) for n in range(255)} | {VOID: VOID if numbered else 1}
    splits = _splits(root)

    def samples() -> Iterator[Raw]:
        unlisted = []
        for folder in sorted(p for p in (root / "JPEGImages" / truth.name).iterdir() if p.is_dir()):
            if splits and folder.name not in splits:
                unlisted.append(folder)
                continue
            name, split = folder.name, splits.get(folder.name)
            for image, label in paired(image_files(folder), named_alike(truth / name), job):
                targets: dict[str, Decoder] = {"instances": partial(_objects, label)} if numbered else {}
                yield Raw(f"{name}_{image.stem}", image, by_id(label, ids), split, name, name, targets)
        job.left_out(unlisted, "no list of sequences has these")

    return Reading(CLASSES, samples(), "davis")


def _objects(path: Path) -> np.ndarray:
    values = values_of(path).astype(np.int32)  # an object has one number in all frames of its sequence
    return np.where(values == VOID, 0, values)


def _numbered(root: Path, truth: Path) -> bool:
    """Tell whether annotations hold numbers of objects, as those of 2017 do; without lists their palette tells."""
    if any((root / "ImageSets" / name).is_dir() for name in LISTS):
        return (root / "ImageSets" / "2017").is_dir()
    with open_image(next(iter(image_files(truth)))) as image:
        return image.mode == "P"


def _splits(root: Path) -> dict[str, str]:
    """Return sequence -> split of the first lists that are there."""
    for folder in (root / "ImageSets" / name for name in LISTS):
        lists = {split: folder / f"{split}.txt" for split in ("train", "val") if (folder / f"{split}.txt").is_file()}
        if lists:
            lines = [(line.split()[0], split) for split, path in lists.items() for line in listed(path)]
            return {line.split("/")[-2] if "/" in line else line: split for line, split in lines}
    return {}


LAYOUT = Layout(
    "davis",
    "DAVIS 2016 and 2017",
    home="https://davischallenge.org",
    licence="CC BY-NC 4.0",
    looks_for="Annotations/480p/SEQUENCE/00000.png beside JPEGImages/480p/",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="official where ImageSets/ is there; otherwise sequences are dealt",
    classes="2",
)
