"""ScanNet: frames of 1,513 scans of rooms, the benchmark's 20 classes.

Dai et al., "ScanNet: Richly-annotated 3D Reconstructions of Indoor Scenes" (CVPR 2017). Coding: the READMEs of
github.com/ScanNet/ScanNet and of its BenchmarkScripts. Other classes than the 20 are void.

    scene0000_00/color/000000.jpg
    scene0000_00/label/000000.png             ScanNet-25k: 8 bits, NYU's ids 0..40
    scene0000_00/instance/000000.png          ScanNet-25k: 16 bits, id * 1000 + number
    scene0000_00/label-filt/0.png             what `_2d-label-filt.zip` holds: 16 bits, ScanNet's own ids
    scene0000_00/instance-filt/0.png          number of the object
    scene0000_00/depth/000000.png             millimetres
    scannetv2-labels.combined.tsv             here or above: ScanNet's id -> NYU's id, needed for label-filt
    scannetv2_{train,val}.txt                 here or above: a scan a line; without them rooms are dealt

Labels and depth are smaller than images: each pixel of an image takes the one at its place. Scans of one room
(scene0000_00, scene0000_01) are a group. Frames without a label are left out.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_id, instances_of, values_of
from segmodels.data.formats.layout import Decoder, Fit, Job, Layout, Raw, Reading, Table, first
from segmodels.data.formats.truth import at_size, depth, listed
from segmodels.files import read_text

KINDS = {"label": "instance", "label-filt": "instance-filt"}
NAMES, SCANS, METRES = "scannetv2-labels.combined.tsv", "scene[0-9]*_[0-9]*", 0.001
NYU = range(41)


def _detect(root: Path) -> Fit | None:
    image = first(root, f"{SCANS}/color/*.jpg")
    kind = next((k for k in KINDS if first(root, f"{SCANS}/{k}/*.png")), None)
    if kind is None:
        return Fit(image.relative_to(root).as_posix(), "label/ or label-filt/ of a scan") if image else None
    lacks = f"{SCANS}/color/*.jpg" if image is None else "" if kind == "label" or _near(root, NAMES) else NAMES
    return Fit(f"{SCANS}/{kind}/", lacks)


def _near(root: Path, name: str) -> Path | None:
    return next((p for folder in (root, root.parent) if (p := folder / name).is_file()), None)


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("scannet20")
    kind = next((k for k in KINDS if first(root, f"{SCANS}/{k}/*.png")), "label")
    ids: Mapping[int, int] = table.ids(*NYU)
    if kind == "label-filt" and (names := _near(root, NAMES)) is not None:
        ids = {0: 255} | {own: table.ids(*NYU)[nyu] for own, nyu in _own_ids(names).items()}
    lists = {split: path for split in ("train", "val") if (path := _near(root, f"scannetv2_{split}.txt"))}
    splits = {scan: split for split, path in lists.items() for scan in listed(path)}

    def samples() -> Iterator[Raw]:
        without = []
        for scan in sorted(path for path in root.glob(SCANS) if (path / kind).is_dir()):
            for image in image_files(scan / "color"):
                label = scan / kind / f"{image.stem}.png"
                if not label.is_file():
                    without.append(image)
                    continue
                room, name = scan.name.partition("_")[0], f"{scan.name}_{image.stem}"
                decode, targets = at_size(by_id(label, ids), image), _targets(scan, kind, image)
                yield Raw(name, image, decode, splits.get(scan.name), room, scan.name, targets)
        job.left_out(without, "these have no label")

    return Reading(table.classes, samples(), "scannet", {"depth": {"unit": "m", "scale": METRES}})


def _own_ids(path: Path) -> dict[int, int]:
    """Return ScanNet's id -> NYU's."""
    try:
        rows = csv.DictReader(read_text(path).splitlines(), delimiter="\t")
        return {int(row["id"]): int(row["nyu40id"] or 0) for row in rows}
    except (KeyError, ValueError, TypeError) as error:
        raise DatasetError(f"{path}: has no columns id and nyu40id of numbers ({error}); restore it") from None


def _targets(scan: Path, kind: str, image: Path) -> dict[str, Decoder]:
    numbers, far = scan / KINDS[kind] / f"{image.stem}.png", scan / "depth" / f"{image.stem}.png"
    targets: dict[str, Decoder] = {}
    if numbers.is_file():
        targets["instances"] = at_size(partial(_objects, numbers, kind == "label"), image)
    if far.is_file():
        targets["depth"] = at_size(depth(far, METRES), image)
    return targets


def _objects(path: Path, classed: bool) -> np.ndarray:
    values = values_of(path)
    return instances_of(np.where(values % 1000 == 0, 0, values) if classed else values)


LAYOUT = Layout(
    "scannet",
    "ScanNet, frames",
    home="http://www.scan-net.org",
    licence="ScanNet terms of use (research)",
    looks_for="scene0000_00/color/ beside label/ (ScanNet-25k) or label-filt/",
    read=_read,
    detect=_detect,
    obtain="agree to its terms of use; scannet_frames_25k.zip is the smaller part",
    targets=("instances", "depth"),
    splits="official where scannetv2_train.txt and scannetv2_val.txt are there; otherwise rooms are dealt",
    classes="20",
)
