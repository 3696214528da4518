"""YOLO's segmentation labels (Ultralytics, Roboflow, Label Studio, CVAT): polygons in text files.

docs.ultralytics.com, "Instance Segmentation Datasets Overview": a line is `class x1 y1 x2 y2 …`, parts of the image's
width and height. Lines are drawn in their order. An image without a file, or with an empty one, holds background.

    data.yaml                            names: [car, bus]  or  {0: car, 1: bus}
    images/<split>/0001.jpg              labels/<split>/0001.txt
    <split>/images/0001.jpg              <split>/labels/0001.txt            Roboflow's order
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import Shape, drawn, image_size, numbered
from segmodels.data.formats.json_files import split_of
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first
from segmodels.files import ContentError, read_text, read_yaml

PATTERNS = ("labels/*/*.txt", "*/labels/*.txt", "labels/*.txt")


def _detect(root: Path) -> Fit | None:
    label = next((path for pattern in PATTERNS if (path := first(root, pattern))), None)
    if label is None:
        return None
    listing, numbers = _listing(root), label.read_bytes()[:200].split()
    if not all(_is_number(n) for n in numbers[:5]):
        return None
    lacks = "" if listing else "data.yaml with the names of the classes"
    if 0 < len(label.read_bytes().splitlines()[0].split() if numbers else ()) == 5:
        lacks = "a polygon (its labels are boxes, `class x y width height`)"
    if listing is not None and b"\nkpt_shape:" in b"\n" + listing.read_bytes():
        lacks = "a polygon (its labels are poses, as `kpt_shape` says)"
    return Fit(label.relative_to(root).as_posix(), lacks)


def _read(root: Path, job: Job) -> Reading:
    listing = _listing(root)
    if listing is None:
        raise DatasetError(f"{root}: has no data.yaml or classes.txt with the names of the classes")
    names = _names(listing)
    classes, undrawn = job.undrawn(infos(names))
    shift = len(classes) - len(names)

    def samples() -> Iterator[Raw]:
        bare = []
        for image in image_files(root):
            parts = image.relative_to(root).parts
            if "images" not in parts:
                continue
            place = len(parts) - 1 - parts[::-1].index("images")
            label = root.joinpath(*parts[:place], "labels", *parts[place + 1 :]).with_suffix(".txt")
            if not label.is_file():
                bare.append(image)
            size, shapes = partial(image_size, image), partial(_shapes, label, image, len(names), shift)
            name = image.relative_to(root).with_suffix("").as_posix().replace("images/", "", 1)
            objects = {"instances": numbered(size, shapes)}
            yield Raw(name, image, drawn(size, shapes, undrawn, classes), split_of(image, root), targets=objects)
        if bare:
            job.noted(f"{len(bare)} images without a label file hold nothing, {bare[0]} first")

    return Reading(classes, samples())


def _listing(root: Path) -> Path | None:
    for name in ("data.yaml", "dataset.yaml", "data.yml", "classes.txt"):
        if (root / name).is_file():
            return root / name
    return next((p for p in sorted(root.glob("*.yaml")) if "names:" in p.read_text(errors="replace")), None)


def _names(listing: Path) -> list[str]:
    if listing.suffix == ".txt":
        return [line.strip() for line in read_text(listing).splitlines() if line.strip()]
    try:
        names = read_yaml(listing)["names"]
        return [str(n) for n in names] if isinstance(names, list) else [str(names[i]) for i in range(len(names))]
    except ContentError as error:
        raise DatasetError(str(error)) from None
    except (KeyError, TypeError):
        raise DatasetError(f"{listing}: has no `names`, a list or a mapping from 0 on") from None


def _shapes(label: Path, image: Path, count: int, shift: int) -> list[Shape]:
    if not label.is_file():
        return []
    height, width = image_size(image)
    shapes = []
    for number, line in enumerate(read_text(label).splitlines(), 1):
        cells = line.split()
        if not cells:
            continue
        if not all(map(_is_number, cells)) or not cells[0].isdecimal():
            raise DatasetError(f"{label}:{number}: is not `class x1 y1 x2 y2 …`")
        if int(cells[0]) >= count:
            raise DatasetError(f"{label}:{number}: class {cells[0]} has no name; {count} are named")
        if len(cells) < 7 or len(cells) % 2 == 0:
            what = "a box" if len(cells) == 5 else f"{len(cells) - 1} numbers"
            raise DatasetError(f"{label}:{number}: holds {what}; a polygon has three points or more, x and y of each")
        points = np.array(cells[1:], np.float64).reshape(-1, 2) * (width, height)
        shapes.append(Shape(int(cells[0]) + shift, (points,)))
    return shapes


def _is_number(text: str | bytes) -> bool:
    try:
        return abs(float(text)) < 1e9
    except ValueError:
        return False


LAYOUT = Layout(
    "yolo",
    "YOLO segmentation",
    home="https://docs.ultralytics.com/datasets/segment/",
    licence="",
    looks_for="labels/**/*.txt of polygons beside images/, and data.yaml",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="folders called train, val (valid), test; otherwise dealt",
    classes="of data.yaml",
)
