"""COCO's panoptic labels, and Cityscapes, ADE20K and Mapillary in that form: PNGs of segments beside a JSON file.

Kirillov et al., "Panoptic Segmentation" (CVPR 2019); cocodataset.org, "Data format", 4. Id = R + 256 G + 65536 B; the
file says which category a segment is; 0 is void.

    annotations/panoptic_<split><year>.json      {"images", "categories": [{"id", "isthing"}], "annotations"}
    annotations/panoptic_<split><year>/*.png     or beside the file
    <split><year>/*.jpg                          or images/<split><year>/
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, DatasetError
from segmodels.data.formats import coco_json
from segmodels.data.formats.decode import instances_of, looked_up, packed_colors
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first

FILES = ("annotations/*panoptic*.json", "*panoptic*.json")
SPLITS = {"train": "train", "val": "val", "validation": "val", "test": "test"}


def _read(root: Path, job: Job) -> Reading:
    files = next((listing for pattern in FILES if (listing := sorted(root.glob(pattern)))), [])
    contents = {path: coco_json.load(path) for path in files}
    # panopticapi writes the same segments as objects, too (`panoptic2detection_coco_format.py`).
    objects_alone = [path for path, content in contents.items() if not _is_panoptic(content)]
    job.left_out(objects_alone, "their annotations have no segments_info; they are no panoptic labels")
    contents = {path: content for path, content in contents.items() if path not in objects_alone}
    if not contents:
        raise DatasetError(f"{files[0]}: its annotations have no segments_info; give the file of the PNGs")
    named = coco_json.categories(list(contents.items()))
    listed = {int(c["id"]): c for content in contents.values() for c in content["categories"]}
    colors = {named[i]: tuple(c["color"]) for i, c in listed.items() if "color" in c}
    classes = coco_json.infos(list(named.values()), colors)  # type: ignore[arg-type]
    index = {number: place for place, number in enumerate(named)}
    things = {number for number, c in listed.items() if c.get("isthing", 1)}

    def samples() -> Iterator[Raw]:
        for path, content in contents.items():
            names = {entry["id"]: str(entry["file_name"]) for entry in content["images"]}
            split = next((SPLITS[w] for w in re.split(r"[^a-z]+", path.stem.lower()) if w in SPLITS), None)
            year = path.stem.rpartition("_")[2]
            folders = [root / year, root / "images" / year, root / "images", root, *_inner(root, path)]
            for annotation in content.get("annotations", ()):
                name, truth = names.get(annotation.get("image_id"), ""), str(annotation.get("file_name"))
                label = next((p for f in (path.with_suffix(""), root) if (p := coco_json.located(f, truth))), None)
                image = next((p for f in folders if name and (p := coco_json.located(f, name))), None)
                if image is None or label is None:
                    missing = truth if label is None else name or f"image {annotation.get('image_id')}"
                    job.problems.append(f"{path}: {missing} is not there; add it or take the entry out")
                    continue
                segments = annotation.get("segments_info", ())
                decode = partial(_label, label, segments, index)
                objects = {"instances": partial(_objects, label, segments, things)}
                yield Raw(image.stem, image, decode, split, targets=objects)

    return Reading(classes, samples())


def _is_panoptic(content: Mapping[str, Any]) -> bool:
    annotations = content.get("annotations", ())
    return not annotations or any("segments_info" in annotation for annotation in annotations)


def _inner(root: Path, path: Path) -> list[Path]:
    """Return the other folders in which images may lie; that of the PNGs has files of the same stem."""
    return [p for p in sorted(root.iterdir()) if p.is_dir() and p != path.with_suffix("")]


def _detect(root: Path) -> Fit | None:
    listing = next((listing for pattern in FILES if (listing := first(root, pattern))), None)
    if listing is None:
        return None
    lacks = (
        "" if first(root, "*panoptic*/*.png") or first(root, "annotations/*panoptic*/*.png") else "its folder of PNGs"
    )
    return Fit(listing.relative_to(root).as_posix(), lacks)


def _ids(path: Path) -> np.ndarray:
    packed = packed_colors(path)
    return (packed >> 16) + (packed & 0xFF00) + ((packed & 255) << 16)


def _label(path: Path, segments: list[Mapping[str, Any]], index: Mapping[int, int]) -> np.ndarray:
    try:
        table = {0: IGNORE_INDEX} | {int(s["id"]): index[int(s["category_id"])] for s in segments}
    except (KeyError, TypeError, ValueError) as error:
        raise DatasetError(f"{path}: a segment's category is unknown ({error})") from None
    return looked_up(_ids(path), table, lambda v: f"segment {v}", path)


def _objects(path: Path, segments: list[Mapping[str, Any]], things: set[int]) -> np.ndarray:
    ids = _ids(path)
    counted = [int(s["id"]) for s in segments if s["category_id"] in things and not s.get("iscrowd")]
    return instances_of(np.where(np.isin(ids, counted), ids, 0))


LAYOUT = Layout(
    "coco_panoptic",
    "COCO panoptic",
    home="https://cocodataset.org",
    licence="CC BY 4.0 (annotations)",
    looks_for="annotations/panoptic_*.json beside its folder of PNGs and the images",
    read=_read,
    detect=_detect,
    targets=("instances",),
    classes="of the file; 133 in COCO",
)
