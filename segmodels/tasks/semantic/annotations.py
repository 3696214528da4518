"""A dataset folder, or predictions for its images, in the forms that annotation tools and other trainers read.

    folder       images/<split>/, labels/<split>/, classes.txt
    coco         annotations/instances_<split>.json with run lengths, <split>/
    yolo         images/<split>/, labels/<split>/*.txt, data.yaml; outlines, so edges may move by a pixel
    cvat         annotations.xml (CVAT for images 1.1) with masks, images/<split>/
    cityscapes   leftImg8bit/<split>/, gtFine/<split>/*_labelIds.png; classes have to have Cityscapes' names

Each region of one class, connected over sides, is an object of coco, yolo and cvat; the class `background` is not
drawn. `segmodels.data.formats` reads all of them again."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import yaml
from PIL import Image
from scipy import ndimage

from segmodels.data.folder import IGNORE_INDEX, SPLITS, DatasetError, DatasetInfo, Sample, read_label, samples
from segmodels.data.formats.layout import BACKGROUND, Table
from segmodels.files import copy, replaced
from segmodels.tasks.semantic.polygons import polygons

log = logging.getLogger(__name__)


def export(data: Path, out: Path, form: str, predictions: Path | None = None) -> int:
    """Write a dataset folder in another form; what was at `out` is replaced when all went well.

    Args:
        data: The dataset folder.
        out: The folder to write.
        form: A key of `FORMS`.
        predictions: A folder of class maps, PNGs named like the images, that take the place of the labels; images
            without one are left out.

    Returns:
        How many images were written.

    Raises:
        DatasetError: The form is unknown, or cannot say what the dataset has.
    """
    if form not in FORMS:
        raise DatasetError(f"form {form!r} is unknown; known are {', '.join(FORMS)}")
    info = DatasetInfo.read(data)
    maps = {p.stem: p for p in sorted(predictions.rglob("*.png"))} if predictions is not None else None

    def listed() -> Iterator[tuple[str, Sample, np.ndarray]]:
        for split in SPLITS:
            for sample in samples(data, split) if info.splits.get(split) else ():
                if maps is None:
                    yield split, sample, read_label(sample.label)
                elif sample.id in maps:
                    yield split, sample, read_label(maps[sample.id])

    void = 0

    def told() -> Iterator[tuple[str, Sample, np.ndarray]]:
        nonlocal void
        for split, sample, label in listed():
            void += bool((label == IGNORE_INDEX).any())
            yield split, sample, label

    with replaced(out) as part:
        part.mkdir(parents=True)
        count = FORMS[form](info, told(), part)
        if void and form in ("coco", "yolo", "cvat"):
            log.warning("%d images have void pixels, which %s cannot say: nothing is drawn on them", void, form)
        if not count:
            raise DatasetError(f"{predictions or data}: no class map belongs to an image of {data}")
    return count


def _folder(info: DatasetInfo, listed: Iterator[tuple[str, Sample, np.ndarray]], out: Path) -> int:
    lines = [f"{c.name} {c.color[0]} {c.color[1]} {c.color[2]}" for c in info.classes]
    (out / "classes.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    count = 0
    for split, sample, label in listed:
        _copied(sample, out / "images" / split)
        _saved(label, out / "labels" / split / f"{sample.id}.png")
        count += 1
    return count


def _cityscapes(info: DatasetInfo, listed: Iterator[tuple[str, Sample, np.ndarray]], out: Path) -> int:
    raw = {c.name: number for number, c in Table.official("cityscapes").rows}
    unknown = next((c.name for c in info.classes if c.name not in raw), None)
    if unknown is not None:
        raise DatasetError(f"class {unknown!r} is none of Cityscapes' 19; export to another form, or rename it")
    ids = np.zeros(256, np.uint8)
    ids[: info.num_classes] = [raw[c.name] for c in info.classes]
    count = 0
    for split, sample, label in listed:
        # City, sequence and frame, the three parts of every name there.
        name = f"{info.name}_000000_{count:06d}"
        image = out / "leftImg8bit" / split / info.name / f"{name}_leftImg8bit.png"
        image.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(sample.image) as opened:
            opened.convert("RGB").save(image)
        _saved(ids[label], out / "gtFine" / split / info.name / f"{name}_gtFine_labelIds.png")
        count += 1
    return count


def _coco(info: DatasetInfo, listed: Iterator[tuple[str, Sample, np.ndarray]], out: Path) -> int:
    categories = [
        {"id": i, "name": c.name, "supercategory": ""} for i, c in enumerate(info.classes, 1) if _drawn(c.name)
    ]
    documents: dict[str, dict[str, Any]] = {}
    count = 0
    for split, sample, label in listed:
        document = documents.setdefault(split, {"images": [], "annotations": [], "categories": categories})
        image = _copied(sample, out / split)
        height, width = label.shape
        number = len(document["images"]) + 1
        document["images"].append({"id": number, "file_name": image.name, "height": height, "width": width})
        for class_id, mask, (rows, columns) in _objects(label, info):
            document["annotations"].append(
                {
                    "id": len(document["annotations"]) + 1,
                    "image_id": number,
                    "category_id": class_id + 1,
                    "segmentation": {"size": [height, width], "counts": _runs(mask.T)},
                    "area": int(mask.sum()),
                    "bbox": [columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start],
                    "iscrowd": 0,
                }
            )
        count += 1
    for split, document in documents.items():
        path = out / "annotations" / f"instances_{split}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(document))
    return count


def _yolo(info: DatasetInfo, listed: Iterator[tuple[str, Sample, np.ndarray]], out: Path) -> int:
    names = [c.name for c in info.classes if _drawn(c.name)]
    count = 0
    seen: set[str] = set()
    for split, sample, label in listed:
        image = _copied(sample, out / "images" / split)
        lines = []
        for polygon in polygons(label):
            if polygon.label < info.num_classes and (name := info.classes[polygon.label].name) in names:
                points = polygon.outline / (label.shape[1], label.shape[0])
                lines.append(f"{names.index(name)} " + " ".join(f"{v:.6f}" for v in points.ravel()))
        text = out / "labels" / split / f"{image.stem}.txt"
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text("".join(line + "\n" for line in lines))
        seen.add(split)
        count += 1
    described: dict[str, Any] = {split: f"images/{split}" for split in SPLITS if split in seen}
    described["names"] = dict(enumerate(names))
    (out / "data.yaml").write_text(yaml.safe_dump(described, sort_keys=False, allow_unicode=True), encoding="utf-8")
    return count


def _cvat(info: DatasetInfo, listed: Iterator[tuple[str, Sample, np.ndarray]], out: Path) -> int:
    root = ElementTree.Element("annotations")
    ElementTree.SubElement(root, "version").text = "1.1"
    labels = ElementTree.SubElement(ElementTree.SubElement(ElementTree.SubElement(root, "meta"), "task"), "labels")
    for c in info.classes:
        if _drawn(c.name):
            entry = ElementTree.SubElement(labels, "label")
            ElementTree.SubElement(entry, "name").text = c.name
            ElementTree.SubElement(entry, "color").text = "#{:02x}{:02x}{:02x}".format(*c.color)
    count = 0
    for split, sample, label in listed:
        image = _copied(sample, out / "images" / split)
        height, width = map(str, label.shape)
        element = ElementTree.SubElement(
            root, "image", id=str(count), name=image.name, subset=split, width=width, height=height
        )
        for class_id, mask, (rows, columns) in _objects(label, info):
            part = mask[rows, columns]
            ElementTree.SubElement(
                element, "mask", label=info.classes[class_id].name, source="manual", occluded="0",
                rle=", ".join(map(str, _runs(part))), left=str(columns.start), top=str(rows.start),
                width=str(part.shape[1]), height=str(part.shape[0]), z_order="0",
            )  # fmt: skip
        count += 1
    ElementTree.indent(root)
    ElementTree.ElementTree(root).write(out / "annotations.xml", encoding="utf-8", xml_declaration=True)
    return count


def _objects(label: np.ndarray, info: DatasetInfo) -> Iterator[tuple[int, np.ndarray, tuple[slice, slice]]]:
    """Yield class id, mask `[H, W]` and place of every region that is drawn."""
    for class_id in np.unique(label).tolist():
        if class_id == IGNORE_INDEX or class_id >= info.num_classes or not _drawn(info.classes[class_id].name):
            continue
        regions, _ = ndimage.label(label == class_id)
        for number, place in enumerate(ndimage.find_objects(regions), 1):
            yield class_id, regions == number, place


def _runs(mask: np.ndarray) -> list[int]:
    """Return lengths of runs in row-major order, those of outside first."""
    flat = mask.ravel()
    ends = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *ends.tolist(), len(flat)]).tolist()
    return [0, *runs] if flat[0] else list(runs)


def _drawn(name: str) -> bool:
    return name.lower() != BACKGROUND


def _copied(sample: Sample, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    copy(sample.image, folder / sample.image.name)
    return folder / sample.image.name


def _saved(values: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


FORMS: dict[str, Callable[[DatasetInfo, Iterator[tuple[str, Sample, np.ndarray]], Path], int]] = {
    "folder": _folder,
    "coco": _coco,
    "yolo": _yolo,
    "cvat": _cvat,
    "cityscapes": _cityscapes,
}
