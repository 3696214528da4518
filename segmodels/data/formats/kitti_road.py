"""KITTI Road in its genuine layout, as `data_road.zip` unpacks.

Fritsch, Kühnl, Geiger, "A New Performance Measure and Evaluation Benchmark for Road Detection Algorithms" (2013).

    data_road/training/image_2/um_000000.png
    data_road/training/gt_image_2/um_road_000000.png       magenta road, red not road, black ignored
    data_road/training/gt_image_2/um_lane_000000.png       the ego lane; not read
    data_road/testing/image_2/…                            without public labels; not read

`val` is dealt from the training images.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import (
    IGNORE_INDEX,
    ClassInfo,
    DatasetError,
    DatasetWriter,
    read_image,
)
from segmodels.data.formats.common import Splitting, image_files, refuse, with_licence

LOOKS_FOR = "training/image_2/ beside training/gt_image_2/"
LICENCE = "CC BY-NC-SA 3.0"
CLASSES = (ClassInfo("not road", (255, 0, 0)), ClassInfo("road", (255, 0, 255)))
IGNORED = (0, 0, 0)


def detect(root: Path) -> bool:
    """Tell whether `root` is a `data_road` folder."""
    return all((root / "training" / folder).is_dir() for folder in ("image_2", "gt_image_2"))


def convert(root: Path, out: Path, *, name: str, source: Mapping[str, Any], splitting: Splitting) -> None:
    """Write the dataset folder `out` with the splits `train` and `val`.

    Raises:
        DatasetError: An image has no ground truth, or one is unreadable or has another colour; all are listed.
    """
    images = list(image_files(root / "training" / "image_2"))
    splits = replace(splitting, test_fraction=0.0).assign(image.stem for image in images)
    problems: list[str] = []
    with DatasetWriter(out, "kitti_road", CLASSES, source=with_licence(source, LICENCE)) as writer:
        for image in images:
            try:
                writer.add(splits[image.stem], image.stem, image, _ids(_truth(root, image)))
            except DatasetError as error:
                problems.append(str(error))
        refuse(problems)


def _truth(root: Path, image: Path) -> Path:
    category, _, number = image.stem.partition("_")
    truth = root / "training" / "gt_image_2" / f"{category}_road_{number}.png"
    if not truth.is_file():
        raise DatasetError(f"{image}: has no ground truth; {truth} is missing")
    return truth


def _ids(truth: Path) -> np.ndarray:
    colors = read_image(truth)
    ids = np.full(colors.shape[:2], IGNORE_INDEX, np.uint8)
    unknown = (colors != IGNORED).any(axis=-1)
    for index, info in enumerate(CLASSES):
        here = (colors == info.color).all(axis=-1)
        ids[here] = index
        unknown &= ~here
    if unknown.any():
        y, x = np.argwhere(unknown)[0]
        raise DatasetError(
            f"{truth}: colour {tuple(colors[y, x].tolist())} at x={x}, y={y}; "
            "ground truth is magenta (road), red (not road) or black (ignored)"
        )
    return ids
