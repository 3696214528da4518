"""Images with depths beside them and no labels: what a depth camera or a renderer writes.

    images/a.jpg   depth/a.png            or train/images/ train/depth/ …

Depths are PNGs of 16 bits in steps of `data.depth_scale` metres (0.001: millimetres of a RealSense or Kinect; 1/256:
KITTI; 0.0002: TUM RGB-D); 0 is no depth. For `task: depth` alone: there are no classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import SPLITS, DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first, named_alike, paired
from segmodels.data.targets import target

IMAGES, DEPTHS, LABELS = ("images", "image", "rgb", "color"), ("depth", "depths"), ("label*", "mask*", "annotation*")


def _parts(root: Path) -> Iterator[tuple[str | None, Path, Path]]:
    """Yield each split with its folders of images and of depths."""
    for split, base in ((None, root), *((split, root / split) for split in SPLITS)):
        images = next((base / name for name in IMAGES if (base / name).is_dir()), None)
        depths = next((base / name for name in DEPTHS if first(base, f"{name}/*.png")), None)
        if images is not None and depths is not None and not any(first(base, pattern) for pattern in LABELS):
            yield split, images, depths


def _detect(root: Path) -> Fit | None:
    part = next(iter(_parts(root)), None)
    return Fit(" and ".join(f"{folder.relative_to(root).as_posix()}/" for folder in part[1:])) if part else None


def _read(root: Path, job: Job) -> Reading:
    scale = job.choices.depth_scale
    if scale is None:
        raise DatasetError(
            f"{root}: says nowhere what its depths mean; set data.depth_scale to the metres of one step, e.g. 0.001 "
            "where they are millimetres"
        )
    stored = {"unit": "m", "scale": scale}

    def samples() -> Iterator[Raw]:
        for split, images, depths in _parts(root):
            for image, depth in paired(image_files(images), named_alike(depths), job, "depth"):
                yield Raw(image.stem, image, None, split, targets={"depth": partial(_metres, depth, stored)})

    return Reading((), samples(), stored={"depth": stored})


def _metres(path: Path, stored: dict[str, object]) -> np.ndarray:
    return target("depth").read(path, stored)


LAYOUT = Layout(
    "image_depth",
    "Images with depths",
    home="",
    licence="",
    looks_for="depth/*.png of 16 bits beside images/, and no labels",
    read=_read,
    detect=_detect,
    targets=("depth",),
    splits="folders called train, val, test; otherwise dealt",
    classes="none",
)
