"""CVAT for images 1.1, and for video 1.1: one XML file of shapes beside the images.

docs.cvat.ai, "XML annotation format". Shapes are drawn by `z_order`, then in their order; a mask is run lengths in its
box, outside first. Boxes are filled, also turned ones; points are no area.

    annotations.xml          <image name="a.jpg" width height subset?> <polygon label points="x,y;…" z_order/> …
    images/a.jpg             or images/<subset>/a.jpg, or beside annotations.xml
    images/frame_000010.png  of a video: <track label> <polygon frame="10" outside="0" points/> … </track>

The file may be called otherwise. A track has a shape for every frame; one that is `outside` is not drawn. The frames of
a video are dealt as one group.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.coco_json import infos, located
from segmodels.data.formats.common import image_files
from segmodels.data.formats.decode import Shape, drawn, numbered, placed, ring, runs_mask
from segmodels.data.formats.folder import SPLIT_FOLDERS
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.data.palette import from_hex
from segmodels.errors import brief
from segmodels.files import read_text

FILE = "annotations.xml"
LIMIT = 1 << 30
LINE, LOOKED = 1, 3
FRAME = re.compile(r"frame_(\d+)$")


def _detect(root: Path) -> Fit | None:
    path = _file(root)
    return Fit(path.name) if path else None


def _file(root: Path) -> Path | None:
    others = (p for p in islice(sorted(root.glob("*.xml")), LOOKED) if p.name != FILE)
    for path in (root / FILE, *others):
        if path.is_file() and not path.name.startswith("."):
            with path.open("rb") as file:
                head = file.read(4096)
            if b"<annotations" in head and b"<version>" in head:
                return path
    return None


def _read(root: Path, job: Job) -> Reading:
    file = _file(root) or root / FILE
    text = read_text(file, LIMIT)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise DatasetError(f"{file}: declares entities, which CVAT never does; export it again")
    try:
        tree = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DatasetError(f"{file}: is not XML ({error}); export it again as CVAT for images 1.1") from None
    listed = [(label.findtext("name", ""), label.findtext("color", "")) for label in tree.iter("label")]
    listed = list({name: color for name, color in listed if name}.items())
    if not listed:
        listed = [(name, "") for name in sorted({e.get("label", "") for e in tree.iter() if e.get("label")})]
    colors = {name: from_hex(color) for name, color in listed if len(color) == 7}
    named: tuple[ClassInfo, ...] = infos([name for name, _ in listed], colors)
    classes, undrawn = job.undrawn(named)
    index = {info.name: place for place, info in enumerate(classes)}

    def samples() -> Iterator[Raw]:
        frames = _frames(tree, root)
        for element in (*tree.iter("image"), *frames):
            name, subset = element.get("name", ""), element.get("subset", "")
            places = [root / "images" / subset, root / "images", root / subset, root]
            image = next((path for folder in places if (path := located(folder, name)) is not None), None)
            if image is None:
                job.problems.append(f"{file}: image {name} is not in images/; export it with its images, or add it")
                continue
            size = partial(_size, element, file)
            shapes = partial(_shapes, element, index, file)
            split = SPLIT_FOLDERS.get(subset.lower())
            objects = {"instances": numbered(size, shapes)}
            yield Raw(
                Path(name).with_suffix("").as_posix(),
                image,
                drawn(size, shapes, undrawn, classes),
                split,
                "video" if frames else "",
                targets=objects,
            )

    return Reading(classes, samples())


def _frames(tree: ElementTree.Element, root: Path) -> list[ElementTree.Element]:
    """Return the frames of a video as images, each with the shapes that its tracks have in it."""
    drawn: dict[int, list[ElementTree.Element]] = {}
    for track in tree.iter("track"):
        for shape in track:
            if shape.get("outside") != "1":
                shape.set("label", track.get("label", ""))
                drawn.setdefault(int(shape.get("frame", -1)), []).append(shape)
    numbered = {int(m[1]): p.name for p in image_files(root / "images") if (m := FRAME.search(p.stem))} if drawn else {}
    size = {key: tree.findtext(f"meta//original_size/{key}", "") for key in ("width", "height")}
    frames = []
    for number in sorted(numbered.keys() | drawn.keys()):
        name = numbered.get(number, f"frame_{number:06}.png")
        frames.append(ElementTree.Element("image", {"name": name, **size}))
        frames[-1].extend(drawn.get(number, ()))
    return frames


def _size(element: ElementTree.Element, path: Path) -> tuple[int, int]:
    try:
        return int(element.attrib["height"]), int(element.attrib["width"])
    except (KeyError, ValueError):
        raise DatasetError(f"{path}: image {element.get('name')} has no width and height") from None


def _shapes(element: ElementTree.Element, index: Mapping[str, int], file: Path) -> list[Shape]:
    shapes = []
    for number, child in enumerate(element):
        label = child.get("label")
        if label is None or child.tag in ("points", "skeleton", "tag", "cuboid"):
            continue
        if label not in index:
            raise DatasetError(f"{file}: {element.get('name')}: label {label!r} is not among the labels of the task")
        try:
            shape = _shape(child, index[label], *_size(element, file))
        except (KeyError, ValueError, TypeError) as error:
            raise DatasetError(f"{file}: {element.get('name')}: a {child.tag} is damaged ({brief(error)})") from None
        shapes.append((int(child.get("z_order", 0)), number, shape))
    return [shape for *_, shape in sorted(shapes, key=lambda entry: entry[:2])]


def _shape(child: ElementTree.Element, index: int, height: int, width: int) -> Shape:
    got: Mapping[str, str] = child.attrib
    if child.tag in ("polygon", "polyline"):
        points = ring([[float(v) for v in pair.split(",")] for pair in got["points"].split(";") if pair])
        return Shape(index, (points,), width=LINE if child.tag == "polyline" else 0)
    if child.tag == "box":
        left, top, right, bottom = (float(got[key]) for key in ("xtl", "ytl", "xbr", "ybr"))
        corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
        return Shape(index, (_rotated(corners, float(got.get("rotation", 0))),))
    if child.tag == "ellipse":
        center, radii = np.array([float(got["cx"]), float(got["cy"])]), np.array([float(got["rx"]), float(got["ry"])])
        turns = np.linspace(0, 2 * math.pi, 181)[:-1]
        points = center + radii * np.stack([np.cos(turns), np.sin(turns)], 1)
        return Shape(index, (_rotated(points, float(got.get("rotation", 0))),))
    if child.tag == "mask":
        box_width, box_height = int(got["width"]), int(got["height"])
        runs = [int(run) for run in got["rle"].split(",")]
        if sum(runs) > box_width * box_height or min(runs) < 0:
            raise ValueError("its runs are longer than its box")
        part = np.zeros(box_width * box_height, bool)
        part[: sum(runs)] = runs_mask(runs, box_width * box_height)
        box = part.reshape(box_height, box_width)
        return Shape(index, mask=placed(box, int(got["left"]), int(got["top"]), height, width))
    raise ValueError(child.tag)


def _rotated(points: np.ndarray, degrees: float) -> np.ndarray:
    if not degrees:
        return points
    turn, center = math.radians(degrees), points.mean(0)
    matrix = np.array([[math.cos(turn), math.sin(turn)], [-math.sin(turn), math.cos(turn)]])
    return (points - center) @ matrix + center


LAYOUT = Layout(
    "cvat",
    "CVAT for images 1.1 and for video 1.1",
    home="https://www.cvat.ai",
    licence="",
    looks_for="annotations.xml beside images/",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="subsets called train, val, test; otherwise dealt",
    classes="of the task's labels",
)
