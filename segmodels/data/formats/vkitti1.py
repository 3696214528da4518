"""Virtual KITTI 1.3.1: rendered drives with labels, objects, depth.

Gaidon, Wang, Cabon, Vig, "Virtual Worlds as Proxy for Multi-Object Tracking Analysis" (CVPR 2016). Coding: READMEs of
the archives. Colours are those of one drive and variation: the text file beside them lists them, of cars and vans one
for each object.

    vkitti_1.3.1_rgb/0001/clone/00000.png
    vkitti_1.3.1_scenegt/0001/clone/00000.png
    vkitti_1.3.1_scenegt/0001_clone_scenegt_rgb_encoding.txt      `Category(:id) r g b`, e.g. `Car:0 200 200 200`
    vkitti_1.3.1_depthgt/0001/clone/00000.png                     16 bits, centimetres; 65535 is the sky

The archives unpack side by side. There is no official split: worlds (0001, 0002, …) are dealt.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color, looked_up, packed_colors
from segmodels.data.formats.layout import Decoder, Job, Layout, Raw, Reading, Table, named_alike, paired
from segmodels.data.formats.truth import depth, listed
from segmodels.data.palette import Color

RGB, SCENE, DEPTH = "vkitti_1.3.1_rgb", "vkitti_1.3.1_scenegt", "vkitti_1.3.1_depthgt"
METRES, FARTHEST = 0.01, 65535


def _read(root: Path, job: Job) -> Reading:
    table = Table.official("vkitti2")
    places = {info.name: place for place, info in enumerate(table.classes)}

    def samples() -> Iterator[Raw]:
        for drive in sorted(path for path in root.glob(f"{RGB}/[0-9]*/*") if path.is_dir()):
            world, variation = drive.parts[-2:]
            truth = root / SCENE / world / variation
            colors, numbers = _encoding(truth.parent.parent / f"{world}_{variation}_scenegt_rgb_encoding.txt", places)
            for image, label in paired(image_files(drive), named_alike(truth), job):
                targets: dict[str, Decoder] = {"instances": partial(_objects, label, numbers)}
                if (far := root / DEPTH / world / variation / image.name).is_file():
                    targets["depth"] = depth(far, METRES, FARTHEST)
                sequence = f"{world}_{variation}"
                name = f"{sequence}_{image.stem}"
                yield Raw(name, image, by_color(label, colors), None, world, sequence, targets)

    return Reading(table.classes, samples(), "vkitti1")


def _encoding(path: Path, places: dict[str, int]) -> tuple[dict[Color, int], dict[int, int]]:
    """Return colour -> class index, and packed colour -> number of the object, from 1 on; 0 for none."""
    if not path.is_file():
        raise DatasetError(f"{path}: no such file; it lists the colours of the drive: unpack the archive as a whole")
    colors: dict[Color, int] = {}
    numbers: dict[int, int] = {}
    for line in listed(path)[1:]:
        try:
            what, red, green, blue = line.split()
            category, _, number = what.partition(":")
            color = (int(red), int(green), int(blue))
            colors[color] = places[category]
            numbers[(color[0] << 16) + (color[1] << 8) + color[2]] = int(number) + 1 if number else 0
        except (ValueError, KeyError):
            raise DatasetError(f"{path}: {line!r} is not `Category r g b` of a category of Virtual KITTI") from None
    return colors, numbers


def _objects(path: Path, numbers: dict[int, int]) -> np.ndarray:
    return looked_up(packed_colors(path), numbers, lambda v: f"colour {v >> 16, v >> 8 & 255, v & 255}", path)


LAYOUT = Layout(
    "vkitti1",
    "Virtual KITTI 1.3.1",
    home="https://europe.naverlabs.com/research/computer-vision/proxy-virtual-worlds-vkitti-1/",
    licence="CC BY-NC-SA 3.0",
    looks_for="vkitti_1.3.1_rgb/ beside vkitti_1.3.1_scenegt/",
    read=_read,
    marks=(f"{RGB}/[0-9]*/*/*.png",),
    needs=(f"{SCENE}/[0-9]*/*/*.png", f"{SCENE}/*_scenegt_rgb_encoding.txt"),
    targets=("depth", "instances"),
    splits="worlds are dealt",
    classes="14",
)
