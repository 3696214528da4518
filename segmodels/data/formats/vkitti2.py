"""Virtual KITTI 2: rendered drives with labels, objects, depth.

Cabon, Murray, Humenberger, "Virtual KITTI 2" (2020). Colours: `colors.txt` of each variant (Category r g b); depth:
16-bit PNG in centimetres; objects: palette index = track + 1.

    Scene01/clone/frames/rgb/Camera_0/rgb_00000.jpg
    Scene01/clone/frames/classSegmentation/Camera_0/classgt_00000.png
    Scene01/clone/frames/{depth,instanceSegmentation}/Camera_0/{depth,instancegt}_00000.png

The archives unpack side by side. There is no official split: scenes are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color, instances_of, values_of
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, paired

FRAMES = "Scene*/*/frames"
METRES = 0.01
FARTHEST = 65535


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("vkitti2")
    colors = table.colors()

    def samples() -> Iterator[Raw]:
        for frames in sorted(root.glob(FRAMES)):
            scene, variant = frames.parts[-3:-1]

            def other(image: Path, kind: str, name: str, frames: Path = frames) -> Path:
                number = image.stem.partition("_")[2]
                return frames / kind / image.parent.name / f"{name}_{number}.png"

            images = image_files(frames / "rgb")
            for image, label in paired(images, partial(other, kind="classSegmentation", name="classgt"), job):
                drive = f"{scene}_{variant}_{image.parent.name}"
                targets = {}
                if (depth := other(image, "depth", "depth")).is_file():
                    targets["depth"] = partial(_depth, depth)
                if (objects := other(image, "instanceSegmentation", "instancegt")).is_file():
                    targets["instances"] = partial(_objects, objects)
                name = f"{drive}_{image.stem.partition('_')[2]}"
                yield Raw(name, image, by_color(label, colors), None, scene, drive, targets)

    return Reading(table.classes, samples(), "vkitti2")


def _depth(path: Path) -> np.ndarray:
    values = values_of(path)
    return np.where(values == FARTHEST, 0, values).astype(np.float32) * np.float32(METRES)


def _objects(path: Path) -> np.ndarray:
    return instances_of(values_of(path))


LAYOUT = Layout(
    "vkitti2",
    "Virtual KITTI 2",
    home="https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-2/",
    licence="CC BY-NC-SA 3.0",
    looks_for="Scene01/clone/frames/rgb/ and classSegmentation/",
    read=_read,
    marks=("Scene*/*/frames/rgb/*/rgb_*.jpg",),
    needs=("Scene*/*/frames/classSegmentation/*/classgt_*.png",),
    targets=("depth", "instances"),
    splits="scenes are dealt",
    classes="14",
)
