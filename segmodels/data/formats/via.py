"""VGG Image Annotator, versions 1 and 2: one JSON file of regions beside the images.

robots.ox.ac.uk/~vgg/software/via; `via.js` of version 2 writes a project (`_via_img_metadata`) or the annotations
alone. Regions are drawn in their order. Their class is the value of their attribute; where they have none, they are
`object`.

    via_region_data.json    {"a.jpg1234": {"filename", "regions": [{"shape_attributes", "region_attributes"}]}}
    train/… val/…           one in each folder, with splits
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats import json_files
from segmodels.data.formats.coco_json import infos, located
from segmodels.data.formats.decode import Shape, drawn, image_size, numbered
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.errors import brief

OBJECT = "object"
LINE = 1


def _detect(root: Path) -> Fit | None:
    path = json_files.first_with(root, ('"shape_attributes"', '"filename"'))
    return Fit(path.relative_to(root).as_posix()) if path else None


def _read(root: Path, job: Job) -> Reading:
    entries = []
    for path, content in json_files.each_with(root, (), job):
        listed = content.get("_via_img_metadata", content)
        entries += [(path, e) for e in listed.values() if isinstance(e, dict) and "filename" in e and "regions" in e]
    attributes = {key for _, entry in entries for r in _regions(entry) for key in r.get("region_attributes", {})}
    if len(attributes) > 1:
        preferred = [a for a in ("class", "label", "name", "type", "category") if a in attributes]
        if len(preferred) != 1:
            raise DatasetError(
                f"{root}: regions have the attributes {', '.join(sorted(attributes))}; keep the one that is their class"
            )
        attributes = set(preferred)
    attribute = next(iter(attributes), "")
    names = sorted({_name(r, attribute) for _, entry in entries for r in _regions(entry)})
    classes, undrawn = job.undrawn(infos(names))
    index = {info.name: place for place, info in enumerate(classes)}

    def samples() -> Iterator[Raw]:
        for path, entry in entries:
            image = located(path.parent, str(entry["filename"])) or located(
                path.parent / "images", str(entry["filename"])
            )
            if image is None:
                job.problems.append(f"{path}: {entry['filename']} is not beside it; add it or take the entry out")
                continue
            size, shapes = partial(image_size, image), partial(_shapes, path, entry, attribute, index)
            name = image.relative_to(root).with_suffix("").as_posix()
            objects = {"instances": numbered(size, shapes)}
            split = json_files.split_of(image, root)
            yield Raw(name, image, drawn(size, shapes, undrawn, classes), split, targets=objects)

    return Reading(classes, samples())


def _regions(entry: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    regions = entry["regions"]
    return list(regions.values()) if isinstance(regions, dict) else list(regions)


def _name(region: Mapping[str, Any], attribute: str) -> str:
    value = region.get("region_attributes", {}).get(attribute, "")
    if isinstance(value, dict):  # boxes that are ticked
        value = next((key for key, ticked in value.items() if ticked), "")
    return str(value).strip() or OBJECT


def _shapes(path: Path, entry: Mapping[str, Any], attribute: str, index: Mapping[str, int]) -> list[Shape]:
    shapes = []
    for region in _regions(entry):
        try:
            shape = _shape(region["shape_attributes"], index[_name(region, attribute)])
        except (KeyError, TypeError, ValueError) as error:
            raise DatasetError(f"{path}: {entry['filename']}: a region is damaged ({brief(error)})") from None
        if shape is not None:
            shapes.append(shape)
    return shapes


def _shape(got: Mapping[str, Any], index: int) -> Shape | None:
    kind = got["name"]
    if kind in ("polygon", "polyline"):
        points = np.stack([np.asarray(got["all_points_x"], float), np.asarray(got["all_points_y"], float)], 1)
        return Shape(index, (points,), width=LINE if kind == "polyline" else 0)
    if kind == "rect":
        x, y, width, height = (float(got[key]) for key in ("x", "y", "width", "height"))
        return Shape(index, (np.array([[x, y], [x + width, y + height]]),))
    if kind in ("circle", "ellipse"):
        x, y = float(got["cx"]), float(got["cy"])
        radii = (float(got["r"]),) * 2 if kind == "circle" else (float(got["rx"]), float(got["ry"]))
        turns, turn = np.linspace(0, 2 * np.pi, 181)[:-1], float(got.get("theta", 0))
        outline = np.stack([np.cos(turns) * radii[0], np.sin(turns) * radii[1]], 1)
        matrix = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
        return Shape(index, (outline @ matrix + (x, y),))
    if kind == "point":
        return None
    raise ValueError(kind)


LAYOUT = Layout(
    "via",
    "VGG Image Annotator",
    home="https://www.robots.ox.ac.uk/~vgg/software/via/",
    licence="",
    looks_for="a JSON file with `shape_attributes` beside the images",
    read=_read,
    detect=_detect,
    targets=("instances",),
    splits="folders called train, val, test; otherwise dealt",
    classes="values of the regions' attribute",
)
