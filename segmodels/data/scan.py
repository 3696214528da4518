"""A dataset folder's files, each read, hashed and decoded once; nothing is judged here."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.bands import Bands
from segmodels.data.folder import IMAGE_SUFFIXES, SPLITS, DatasetError, DatasetInfo, read_image, read_label
from segmodels.data.images import PixelBudget, TooManyPixelsError, open_image
from segmodels.data.targets import TARGETS
from segmodels.files import utf8
from segmodels.progress import Heartbeat
from segmodels.runtime import available_cores

_COUNTED = 1 << 20
Row = Mapping[str, Any]
_COLUMNS = (
    *("split", "id", "image", "label", "image_sha256", "label_sha256", "pixels_sha256"),
    *("width", "height", "label_width", "label_height", "readable"),
    *("image_error", "label_error", "target_error", "bad_ids", "void_fraction"),
)


@dataclass(frozen=True)
class Found:
    """A sample on disk, with paths relative to the dataset folder; `label` is None where the image has none."""

    split: str
    id: str
    image: str
    label: str | None


def scan(root: Path, info: DatasetInfo, needs: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Return a row for every sample of the dataset folder `root`, sorted by split and id.

    Further targets are looked at that `dataset.json` names, or that `needs` does.

    Columns: `split`, `id`, `image`, `label` (paths relative to `root`), `image_sha256`, `label_sha256`,
    `pixels_sha256` (of the decoded image), `width`, `height`, `label_width`, `label_height`, `readable`,
    `image_error`, `label_error`, `target_error` (of the first further target that has one), `bad_ids` (ids that no
    class has), `void_fraction`, and the pixels of each class as
    `class_0`, `class_1`, … What a file does not tell is None.
    """
    budget, samples, rows = PixelBudget(), list(find(root)), list[dict[str, Any]]()
    told = Heartbeat(lambda: f"checked {len(rows)} of {len(samples)} samples", sys.stderr)
    with told, ThreadPoolExecutor(available_cores()) as pool:
        further = {name: info.targets.get(name, {}) for name in (*info.targets, *needs) if name != "labels"}
        bands = Bands.of(info.image)
        rows.extend(pool.map(lambda sample: _row(root, sample, info.num_classes, bands, further, budget), samples))
    return rows


def find(root: Path) -> Iterator[Found]:
    """Yield the samples of all splits; an image without a label as well."""
    for split in SPLITS:
        for image in _images(root / split / "images"):
            label = root / split / "labels" / f"{image.stem}.png"
            yield Found(split, image.stem, _relative(image, root), _relative(label, root) if label.is_file() else None)


def strays(root: Path) -> list[dict[str, Any]]:
    """Return files that belong to no sample: `path`, and `why`."""
    rows: list[dict[str, Any]] = []
    for split in SPLITS:
        folder = root / split / "images"
        known = {image.stem for image in _images(folder)}
        files = sorted(p for p in folder.iterdir() if p.suffix.lower() not in IMAGE_SUFFIXES) if folder.is_dir() else []
        rows += [{"path": _relative(p, root), "why": "is no image"} for p in files]
        labels = root / split / "labels"
        files = sorted(labels.iterdir()) if labels.is_dir() else []
        rows += [{"path": _relative(p, root), "why": "is the label of no image"} for p in files if p.stem not in known]
    return rows


def columns(classes: int) -> list[str]:
    """Return the columns of a row of `scan`."""
    return [*_COLUMNS, *(f"class_{i}" for i in range(classes))]


def _images(folder: Path) -> list[Path]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(utf8(path) for path in entries if path.suffix.lower() in IMAGE_SUFFIXES)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _row(
    root: Path,
    sample: Found,
    num_classes: int,
    bands: Bands,
    further: Mapping[str, Mapping[str, Any]],
    budget: PixelBudget,
) -> dict[str, Any]:
    row = dict.fromkeys(columns(num_classes))
    row |= {"split": sample.split, "id": sample.id, "image": sample.image, "label": sample.label}
    with budget.hold_image(root / sample.image):
        row |= _image_columns(root, sample.image, bands)
    if sample.label is not None:
        with budget.hold_image(root / sample.label):
            row |= _label_columns(root, sample.label, num_classes)
    for name, stored in further.items():
        if row["target_error"] is None:
            row["target_error"] = _target_error(root, sample, name, stored, (row["height"], row["width"]), budget)
    row["readable"] = row["image_error"] is None and row["label_error"] is None and sample.label is not None
    return row


def _target_error(
    root: Path, sample: Found, name: str, stored: Mapping[str, Any], size: tuple[Any, Any], budget: PixelBudget
) -> str | None:
    """Return what is wrong with a further target of a sample, a sentence; None where nothing is."""
    kind = TARGETS.get(name)
    if kind is None:  # a folder that nothing here learns from
        return None
    file = f"{sample.split}/{name}/{sample.id}{kind.suffix}"
    if not (root / file).is_file():
        return f"{sample.image}: has no {name}; {file} is missing: add it, or remove the image"
    try:
        with budget.hold_image(root / file):
            values = kind.read(root / file, stored)
    except DatasetError as error:
        return str(error).replace(str(root / file), file)
    height, width = values.shape[-2:]
    if size[0] is not None and (height, width) != size:
        return f"{file}: is {width}x{height}, but its image is {size[1]}x{size[0]}; save them in one size"
    if not kind.seen(values).any():
        return f"{file}: all of it is void; remove the sample"
    return None


def _image_columns(root: Path, name: str, bands: Bands) -> dict[str, Any]:
    row: dict[str, Any] = {}
    try:
        data = (root / name).read_bytes()
        row["image_sha256"] = hashlib.sha256(data).hexdigest()
        if bands.plain:
            _check_whole(data, name)
            pixels = _reading(read_image, data, name)
        else:
            pixels = bands.read(data, name)
    except (OSError, DatasetError, TooManyPixelsError) as error:
        return row | {"image_error": str(error)}
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return row | {"width": width, "height": height, "pixels_sha256": digest.hexdigest()}


def _label_columns(root: Path, name: str, num_classes: int) -> dict[str, Any]:
    row: dict[str, Any] = {}
    try:
        data = (root / name).read_bytes()
        row["label_sha256"] = hashlib.sha256(data).hexdigest()
        _check_whole(data, name)
        label = _reading(read_label, data, name)
    except (OSError, DatasetError) as error:
        return row | {"label_error": str(error)}
    parts = 1 + label.size // _COUNTED  # of each bincount makes a copy of 8 bytes a pixel
    counted = [np.bincount(rows.ravel(), minlength=256) for rows in np.array_split(label, parts)]
    counts = np.sum(counted, axis=0).tolist()
    bad = [i for i in range(num_classes, 255) if counts[i]]
    row |= {"label_width": label.shape[1], "label_height": label.shape[0]}
    row |= {"bad_ids": ", ".join(map(str, bad)) or None, "void_fraction": counts[255] / label.size}
    return row | {f"class_{i}": counts[i] for i in range(num_classes)}


def _reading(reader: Any, data: bytes, name: str) -> np.ndarray:
    """Decode bytes with one of the dataset's readers, and has its error name the file."""
    try:
        pixels: np.ndarray = reader(io.BytesIO(data))
    except DatasetError as error:
        _, _, why = str(error).partition(": ")
        raise DatasetError(f"{name}: {_without_buffer(why)}") from None
    return pixels


def _check_whole(data: bytes, name: str) -> None:
    """Find what decoding alone forgives: a PNG cut or damaged behind its last pixel, and a JPEG without its end."""
    try:
        with open_image(io.BytesIO(data)) as image:
            if image.format == "PNG":
                image.verify()
            elif image.format == "JPEG" and b"\xff\xd9" not in data:
                raise OSError("truncated JPEG file")
    except Exception as error:  # whatever a decoder says of hostile bytes
        raise DatasetError(f"{name}: cannot be read ({_without_buffer(error)}); replace or remove it") from None


def _without_buffer(message: object) -> str:
    """Pillow names what it reads from, which is of no use here."""
    return re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(message))
