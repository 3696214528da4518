"""COCO's JSON, which many tools write: images, categories, and annotations with polygons or run-length codes.

Lin et al., "Microsoft COCO: Common Objects in Context" (ECCV 2014); the format: cocodataset.org, "Data format".
Polygons are filled as pycocotools fills them. Where objects overlap, the smaller lies on top, crowds below everything.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from segmodels.data.folder import ClassInfo, DatasetError
from segmodels.data.formats.decode import Shape, coco_mask, drawn, numbered
from segmodels.data.formats.layout import Job, Raw
from segmodels.data.palette import default_palette
from segmodels.errors import brief
from segmodels.files import ContentError, read_json, refused_path

# The largest official file, of the training images' instances, has 450 MB.
LIMIT = 1 << 30  # bytes


@dataclass(frozen=True)
class Part:
    """A file of annotations, the folder that its images lie in, and the split that it is."""

    annotations: Path
    images: Path
    split: str | None


def load(path: Path) -> dict[str, Any]:
    """Return a file of annotations.

    Raises:
        DatasetError: It is not of COCO's shape.
    """
    try:
        content = read_json(path, LIMIT)
    except ContentError as error:
        raise DatasetError(str(error)) from None
    if not isinstance(content, dict) or not all(isinstance(content.get(k), list) for k in ("images", "categories")):
        raise DatasetError(f"{path}: is not COCO's JSON; it has no lists `images` and `categories`")
    return content


def categories(contents: Sequence[tuple[Path, Mapping[str, Any]]], skip: Sequence[str] = ()) -> dict[int, str]:
    """Return category id -> name, in the order of the ids, of several files that have to agree.

    Raises:
        DatasetError: A category has two names or no name.
    """
    named: dict[int, str] = {}
    for path, content in contents:
        for category in content["categories"]:
            try:
                number, name = int(category["id"]), str(category["name"])
            except (KeyError, TypeError, ValueError) as error:
                raise DatasetError(f"{path}: a category has no id or name ({brief(error)})") from None
            if named.setdefault(number, name) != name:
                raise DatasetError(f"{path}: category {number} is {name} here, and {named[number]} in another file")
    return {number: named[number] for number in sorted(named) if named[number] not in skip}


def infos(names: Sequence[str], colors: Mapping[str, tuple[int, int, int]] | None = None) -> tuple[ClassInfo, ...]:
    """Return classes of these names, which get a number where one stands twice."""
    unique: list[str] = []
    for name in names:
        unique.append(name if name not in unique else f"{name} {sum(n.startswith(name) for n in unique) + 1}")
    spare = default_palette(len(names))
    return tuple(ClassInfo(n, (colors or {}).get(n) or spare[i]) for i, n in enumerate(unique))


def samples(
    parts: Sequence[Part],
    contents: Mapping[Path, Mapping[str, Any]],
    index: Mapping[int, int],
    undrawn: int,
    classes: Sequence[ClassInfo],
    job: Job,
) -> Iterator[Raw]:
    """Yield the images of files of annotations.

    Args:
        parts: The files.
        contents: What `load` gave of each.
        index: Category id -> class index; others are left out.
        undrawn: Class index of pixels that nothing is drawn on.
        classes: All classes.
        job: Takes the problems.
    """
    for part in parts:
        content = contents[part.annotations]
        drawings: dict[Any, list[Mapping[str, Any]]] = defaultdict(list)
        for annotation in content.get("annotations", ()):
            if isinstance(annotation, dict) and annotation.get("segmentation"):
                drawings[annotation.get("image_id")].append(annotation)
        boxes = len(content.get("annotations", ())) - sum(map(len, drawings.values()))
        if boxes and not drawings:
            job.problems.append(f"{part.annotations}: its annotations are boxes; none has a segmentation")
        elif boxes:
            job.noted(f"{part.annotations}: {boxes} annotations are boxes alone, and are left out")
        missing: list[str] = []
        for entry in content["images"]:
            try:
                number, name = entry["id"], str(entry["file_name"])
                height, width = int(entry["height"]), int(entry["width"])
            except (KeyError, TypeError, ValueError) as error:
                job.problems.append(f"{part.annotations}: an image has no id, file_name or size ({brief(error)})")
                continue
            image = located(part.images, name)
            if image is None:
                missing.append(f"{part.annotations}: {name} is not in {part.images}; add it or take the entry out")
                continue
            what = f"{part.annotations}: {name}"
            shapes = partial(_shapes, drawings.get(number, ()), index, height, width, what)
            size: Callable[[], tuple[int, int]] = partial(_size, height, width)
            yield Raw(
                image.relative_to(part.images).with_suffix("").as_posix(),
                image,
                drawn(size, shapes, undrawn, classes),
                part.split,
                targets={"instances": numbered(size, partial(_objects, shapes))},
            )
        if len(missing) == len(content["images"]) > 1:
            missing = [f"{missing[0]}; nor are the {len(missing) - 1} others: give the folder that has them, too"]
        job.problems.extend(missing)


def located(folder: Path, name: str) -> Path | None:
    """Return the file of this name in a folder, or of its last part; None where there is none."""
    relative = name.replace("\\", "/").lstrip("/")
    for candidate in (relative, relative.rpartition("/")[2]):
        if not refused_path(candidate) and (folder / candidate).is_file():
            return folder / candidate
    return None


def _size(height: int, width: int) -> tuple[int, int]:
    return height, width


def _shapes(
    annotations: Sequence[Mapping[str, Any]], index: Mapping[int, int], height: int, width: int, what: str
) -> list[Shape]:
    shapes = []
    for annotation in annotations:
        if annotation.get("category_id") not in index:
            continue
        try:
            mask = coco_mask(annotation["segmentation"], height, width)
        except DatasetError as error:
            raise DatasetError(f"{what}: {error}") from None
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"{what}: an annotation's segmentation is damaged ({brief(error)})") from None
        crowd = bool(annotation.get("iscrowd"))
        shapes.append((not crowd, -int(mask.sum()), Shape(index[annotation["category_id"]], mask=mask, crowd=crowd)))
    return [shape for *_, shape in sorted(shapes, key=lambda entry: entry[:2])]


def _objects(shapes: Callable[[], Sequence[Shape]]) -> list[Shape]:
    return [shape for shape in shapes() if not shape.crowd]
