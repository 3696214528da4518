"""A2D2: 41,277 frames of Audi's cars with 38 classes.

Geyer et al., "A2D2: Audi Autonomous Driving Dataset", arXiv:2004.06320. Colours: `class_list.json` of the archive,
which is read where it is there. `Car 1` to `Car 4` tell cars apart that lie side by side: they are one class. Black,
which the list does not have, is void.

    camera_lidar_semantic/class_list.json
    camera_lidar_semantic/20180807_145028/camera/cam_front_center/20180807145028_camera_frontcenter_000000091.png
    camera_lidar_semantic/20180807_145028/label/cam_front_center/20180807145028_label_frontcenter_000000091.png

There is no official split: drives are dealt.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import by_color
from segmodels.data.formats.layout import Job, Layout, Raw, Reading, Table, paired
from segmodels.data.palette import Color, from_hex
from segmodels.files import read_json

LIST, VOID = "class_list.json", (0, 0, 0)


def _read(root: Path, job: Job) -> Reading:
    named = _named(root / LIST)
    classes: dict[str, ClassInfo] = {}
    for color, name in named.items():
        classes.setdefault(name, ClassInfo(name, color))
    places = {name: place for place, name in enumerate(classes)}
    colors = {VOID: 255} | {color: places[name] for color, name in named.items()}

    def label(image: Path) -> Path:
        return image.parents[2] / "label" / image.parent.name / image.name.replace("_camera_", "_label_")

    def samples() -> Iterator[Raw]:
        for drive in sorted(path.parent for path in root.glob("[0-9]*_[0-9]*/label")):
            for image, path in paired(image_files(drive / "camera"), label, job):
                sequence = f"{drive.name}_{image.parent.name}"
                yield Raw(image.stem, image, by_color(path, colors), None, drive.name, sequence)

    return Reading(tuple(classes.values()), samples(), "a2d2")


def _named(path: Path) -> dict[Color, str]:
    """Return colour -> class, without the numbers of objects."""
    if not path.is_file():
        listed = {info.color: info.name for info in Table.official("a2d2").classes}
    else:
        content = read_json(path)
        if not isinstance(content, dict) or not all(re.fullmatch("#[0-9a-fA-F]{6}", key) for key in content):
            raise DatasetError(f'{path}: is not A2D2\'s list of classes, {{"#ff0000": "Car 1", …}}; restore it')
        listed = {from_hex(key): str(name) for key, name in content.items()}
    return {color: re.sub(r" \d+$", "", name) for color, name in listed.items()}


LAYOUT = Layout(
    "a2d2",
    "A2D2",
    home="https://www.a2d2.audi",
    licence="CC BY-ND 4.0",
    looks_for="DRIVE/label/cam_*/*_label_*.png beside DRIVE/camera/",
    read=_read,
    marks=("[0-9]*_[0-9]*/label/cam_*/*_label_*.png",),
    needs=("[0-9]*_[0-9]*/camera/cam_*/*_camera_*.png",),
    splits="drives are dealt",
    classes="38",
)
