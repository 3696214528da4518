"""LabelMe of MIT, which CVAT exports as LabelMe 3.0: an XML file of polygons and masks for each image.

Russell, Torralba, Murphy, Freeman, "LabelMe: A Database and Web-Based Tool for Image Annotation" (IJCV 2008);
docs.cvat.ai, "LabelMe"; datumaro, `plugins/data_formats/labelme.py`. Objects are drawn in their order, deleted ones are
not; a mask has the image's size.

    a.jpg a.xml                                   CVAT; <annotation><filename/><object><name/><polygon><pt><x/><y/>
    Images/<folder>/a.jpg                         LabelMe itself
    Annotations/<folder>/a.xml
    Masks/<folder>/a_mask_1.png                   <object><name/><segm><mask/>; beside the XML files as Masks/, too
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from itertools import islice
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from segmodels.data.folder import DatasetError, reading
from segmodels.data.formats import json_files
from segmodels.data.formats.coco_json import infos, located
from segmodels.data.formats.decode import Shape, drawn, image_size, numbered, ring
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.data.images import open_image
from segmodels.errors import brief
from segmodels.files import ContentError, read_text

LOOKED = 3
Objects = list[tuple[str, ElementTree.Element]]


def _detect(root: Path) -> Fit | None:
    for pattern in ("*.xml", "*/*.xml", "*/*/*.xml"):
        for path in islice((p for p in root.glob(pattern) if json_files.visible(p, root)), LOOKED):
            text = json_files.ends(path)
            if b"<annotation>" in text[:200] and (b"<polygon>" in text or b"<segm>" in text):
                return Fit(path.relative_to(root).as_posix())
    return None


def _read(root: Path, job: Job) -> Reading:
    entries: list[tuple[Path, str, Objects]] = []
    for path in sorted(p for p in root.rglob("*.xml") if json_files.visible(p, root)):
        try:
            entries.append((path, *_content(path)))
        except (ContentError, ElementTree.ParseError) as error:
            job.problems.append(f"{path}: is not LabelMe's XML ({brief(error)}); export it again")
    classes, undrawn = job.undrawn(infos(sorted({name for *_, objects in entries for name, _ in objects})))
    index = {info.name: place for place, info in enumerate(classes)}

    def samples() -> Iterator[Raw]:
        for path, name, objects in entries:
            image = next((p for f in _beside(path, "Images") if (p := located(f, name)) is not None), None)
            if image is None:
                job.problems.append(f"{path}: its image {name} is neither beside it nor in Images/; add the image")
                continue
            size, shapes = partial(image_size, image), partial(_shapes, path, objects, index)
            targets = {"instances": numbered(size, shapes)}
            sample, split = image.relative_to(root).with_suffix("").as_posix(), json_files.split_of(path, root)
            yield Raw(sample, image, drawn(size, shapes, undrawn, classes), split, targets=targets)

    return Reading(classes, samples())


def _content(path: Path) -> tuple[str, Objects]:
    """Return an image's name, and its objects with theirs."""
    text = read_text(path)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ContentError("it declares entities, which LabelMe never does")
    tree = ElementTree.fromstring(text)
    there = [o for o in tree.iter("object") if o.findtext("deleted", "0").strip() != "1"]
    return tree.findtext("filename", "").strip(), [(o.findtext("name", "").strip() or "object", o) for o in there]


def _beside(path: Path, folder: str) -> list[Path]:
    """Return where files of an annotation lie: beside it, or in the folder that stands beside Annotations/."""
    parts = path.parent.parts
    places = [len(parts) - 1 - n for n, part in enumerate(reversed(parts)) if part == "Annotations"][:1]
    other = [Path(*parts[:n], folder, *parts[n + 1 :]) for n in places]
    return [*other, path.parent, path.parent / folder]


def _shapes(path: Path, objects: Objects, index: Mapping[str, int]) -> list[Shape]:
    shapes = []
    for name, entry in objects:
        polygon, mask = entry.find("polygon"), entry.findtext("segm/mask", "").strip()
        if polygon is not None:
            shapes.append(Shape(index[name], (_ring(path, name, polygon),)))
        elif mask:
            file = next((p for f in _beside(path, "Masks") if (p := located(f, mask)) is not None), None)
            if file is None:
                raise DatasetError(f"{path}: mask {mask} is not in Masks/; add it")
            shapes.append(Shape(index[name], mask=_mask(file)))
    return shapes


def _ring(path: Path, name: str, polygon: ElementTree.Element) -> np.ndarray:
    try:
        return ring([[float(p.findtext(axis, "")) for axis in "xy"] for p in polygon.iter("pt")])
    except ValueError as error:
        raise DatasetError(f"{path}: an object of {name!r} is damaged ({brief(error)})") from None


def _mask(path: Path) -> np.ndarray:
    with reading(path, "a mask"), open_image(path) as image:
        pixels = np.asarray(image.convert("RGBA"))
    opaque = pixels[..., 3] > 0
    return np.asarray(pixels[..., :3].any(-1)) if opaque.all() else opaque


LAYOUT = Layout(
    "labelme_xml",
    "LabelMe 3.0, XML",
    home="http://labelme.csail.mit.edu",
    licence="",
    looks_for="XML files with <polygon> or <segm>, one for each image",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="folders called train, val, test; otherwise dealt",
    classes="those that are drawn",
)
