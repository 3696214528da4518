"""A dataset folder's files, each read, hashed, decoded and measured once; nothing is judged here."""

from __future__ import annotations

import hashlib
import io
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.bands import Bands, view
from segmodels.data.folder import IMAGE_SUFFIXES, SPLITS, DatasetError, DatasetInfo, read_image, read_label
from segmodels.data.images import PixelBudget, TooManyPixelsError, open_image, orientation
from segmodels.data.targets import TARGETS
from segmodels.data.validation.cache import Cache
from segmodels.data.validation.looks import ImageLooks, grey_rows, heights, levels, salt
from segmodels.data.validation.table import Table
from segmodels.files import utf8
from segmodels.progress import Heartbeat
from segmodels.runtime import available_cores

# Samples that a thread reads before it is given others: a task for each of many small images takes longer than it.
_CHUNK = 16
_SWITCH_SECONDS = 0.0005
# Samples that are worth a file in the user's cache folder.
_WORTH = 50
_COLUMNS = (
    *("split", "id", "image", "label", "image_sha256", "label_sha256", "pixels_sha256"),
    *("width", "height", "label_width", "label_height", "readable"),
    *("image_error", "label_error", "target_error", "bad_ids", "void_fraction"),
)
MEASURES = ("fingerprint", "brightness", "edge_fit", "salt_fraction", "grey_rows", "orientation")
_KEPT = ("label_pixels", "heights")


@dataclass(frozen=True)
class Found:
    """A sample on disk, with paths relative to the dataset folder; `label` is None where the image has none."""

    split: str
    id: str
    image: str
    label: str | None


class Scanned(Table):
    """What the files of a dataset folder hold, a row for each sample, sorted by split and id.

    Columns: `split`, `id`, `image`, `label` (paths relative to the folder), `image_sha256`, `label_sha256`,
    `pixels_sha256` (of the decoded image), `width`, `height`, `label_width`, `label_height`, `readable`, `image_error`,
    `label_error`, `target_error` (of the first further target that has one), `bad_ids` (ids that no class has),
    `void_fraction`; of `segmodels.data.validation.looks` the `fingerprint`, `brightness`, `edge_fit`, `salt_fraction`,
    `grey_rows` and `heights`; the image's EXIF `orientation`, and `label_pixels` (the hash of the decoded label). What
    a file does not tell is None.

    Attributes:
        counts: The pixels of each class, int64 `[N, C]`; -1 where the label does not tell them.
    """

    def __init__(self, columns: Mapping[str, Sequence[Any]], counts: np.ndarray) -> None:
        super().__init__(columns)
        self.counts = counts

    def of_split(self, split: str) -> np.ndarray:
        """Return the indices of a split's samples."""
        return np.flatnonzero(np.array([one == split for one in self.columns["split"]], bool))


def scan(
    root: Path,
    info: DatasetInfo,
    needs: Sequence[str] = (),
    progress: Callable[[int, int], None] | None = None,
    *,
    cached: bool = False,
) -> Scanned:
    """Return what every sample of the dataset folder `root` holds.

    Args:
        root: The dataset folder.
        info: Its description; the further targets that it names are looked at.
        needs: Targets that are looked at, too.
        progress: Called with the samples that are read, and with all of them.
        cached: Read only what has changed since the last scan (`segmodels.data.validation.cache`).
    """
    budget, samples = PixelBudget(), list(find(root))
    columns: dict[str, list[Any]] = {name: [] for name in (*_COLUMNS, *MEASURES, *_KEPT)}
    counts = np.full((len(samples), info.num_classes), -1, np.int64)
    further = {name: info.targets.get(name, {}) for name in (*info.targets, *needs) if name != "labels"}
    told_by = {"classes": info.num_classes, "further": further, "image": dict(info.image)}
    cache = Cache(root, told_by) if cached and len(samples) >= _WORTH else None
    read = partial(_row, root, num_classes=info.num_classes, bands=Bands.of(info.image), further=further, budget=budget)
    files = partial(_files, further=[name for name in further if name in TARGETS])
    stamps: list[str | None] = []
    fresh = 0

    def look(chunk: list[Found]) -> list[tuple[bool, str | None, dict[str, Any]]]:
        seen = []
        for sample in chunk:
            stamp = cache.stamp(files(sample)) if cache else None
            row = cache.get(sample.image, stamp) if cache else None
            seen.append((row is None, stamp, row or read(sample)))
        return seen

    chunks = [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)]
    # Between decoders, which run without the interpreter's lock, are many short steps with it: a thread would wait for
    # the usual 5 ms each time.
    usual = sys.getswitchinterval()
    sys.setswitchinterval(_SWITCH_SECONDS)
    told = Heartbeat(lambda: f"checked {len(columns['id'])} of {len(samples)} samples", sys.stderr)
    try:
        with told, ThreadPoolExecutor(available_cores()) as pool:
            for rows in pool.map(look, chunks):
                for was_read, stamp, row in rows:
                    fresh += was_read
                    if cache:
                        stamps.append(stamp if row["readable"] and not row["target_error"] else None)
                    if (counted := row.pop("counts")) is not None:
                        counts[len(columns["id"])] = counted
                    for name, value in row.items():
                        columns[name].append(value)
                if progress is not None:
                    progress(len(columns["id"]), len(samples))
    finally:
        sys.setswitchinterval(usual)
    if cache and (fresh or len(cache.lines) != len(samples)):
        cache.write(_kept(columns, counts, stamps))
    return Scanned(columns, counts)


def _kept(
    columns: Mapping[str, Sequence[Any]], counts: np.ndarray, stamps: Sequence[str | None]
) -> Iterator[tuple[str, str | None, dict[str, Any]]]:
    for index, (image, stamp) in enumerate(zip(columns["image"], stamps, strict=True)):
        row = {name: values[index] for name, values in columns.items()}
        yield image, stamp, row | {"counts": counts[index].tolist()}


def _files(sample: Found, further: Sequence[str]) -> list[str]:
    """Return the files that a sample's row depends on."""
    beside = [f"{sample.split}/{name}/{sample.id}{TARGETS[name].suffix}" for name in further]
    return [sample.image, sample.label or f"{sample.split}/labels/{sample.id}.png", *beside]


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


def _images(folder: Path) -> list[Path]:
    entries = folder.iterdir() if folder.is_dir() else ()
    return sorted(utf8(path) for path in entries if path.suffix.lower() in IMAGE_SUFFIXES)


def _relative(path: Path, root: Path) -> str:
    return path.relative_to(root).as_posix()


def _row(
    root: Path,
    sample: Found,
    *,
    num_classes: int,
    bands: Bands,
    further: Mapping[str, Mapping[str, Any]],
    budget: PixelBudget,
) -> dict[str, Any]:
    row = dict.fromkeys((*_COLUMNS, *MEASURES, *_KEPT, "counts"))
    row |= {"split": sample.split, "id": sample.id, "image": sample.image, "label": sample.label}
    with budget.hold_image(root / sample.image):
        seen, looks = _image_columns(root, sample.image, bands)
    row |= seen
    if sample.label is not None:
        with budget.hold_image(root / sample.label):
            row |= _label_columns(root, sample.label, num_classes, looks)
    for name, stored in further.items():
        if row["target_error"] is None:
            row["target_error"] = _target_error(root, sample, name, stored, (row["height"], row["width"]), budget)
    labelled = sample.label is not None or not num_classes
    row["readable"] = row["image_error"] is None and row["label_error"] is None and labelled
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


def _image_columns(root: Path, name: str, bands: Bands) -> tuple[dict[str, Any], ImageLooks | None]:
    row: dict[str, Any] = {}
    try:
        data = (root / name).read_bytes()
        row["image_sha256"] = hashlib.sha256(data).hexdigest()
        kind = None
        if bands.plain:
            kind, row["orientation"] = _check_whole(data, name)
            pixels = _reading(read_image, data, name)
        else:
            pixels = bands.read(data, name)
    except (OSError, DatasetError, TooManyPixelsError) as error:
        return row | {"image_error": str(error)}, None
    looks = ImageLooks.of(view(pixels))
    row |= {"width": looks.width, "height": looks.height, "pixels_sha256": _pixel_hash(pixels)}
    row |= {"fingerprint": looks.fingerprint(), "brightness": looks.brightness}
    row["grey_rows"] = grey_rows(pixels) if kind == "JPEG" else None
    return row, looks


def _label_columns(root: Path, name: str, num_classes: int, looks: ImageLooks | None) -> dict[str, Any]:
    row: dict[str, Any] = {}
    try:
        data = (root / name).read_bytes()
        row["label_sha256"] = hashlib.sha256(data).hexdigest()
        _check_whole(data, name)
        label = _reading(read_label, data, name)
    except (OSError, DatasetError) as error:
        return row | {"label_error": str(error)}
    counts = levels(label)
    bad = [i for i in range(num_classes, 255) if counts[i]]
    row |= {"label_width": label.shape[1], "label_height": label.shape[0], "label_pixels": _pixel_hash(label)}
    row |= {"bad_ids": ", ".join(map(str, bad)) or None, "void_fraction": int(counts[255]) / label.size}
    row |= {"salt_fraction": salt(label), "heights": heights(label, num_classes)}
    row["edge_fit"] = looks.edge_fit(label) if looks else None
    return row | {"counts": counts[:num_classes]}


def _pixel_hash(pixels: np.ndarray) -> str:
    digest = hashlib.sha256(f"{pixels.shape[1]}x{pixels.shape[0]}:".encode())
    digest.update(np.ascontiguousarray(pixels).data)
    return digest.hexdigest()


def _reading(reader: Any, data: bytes, name: str) -> np.ndarray:
    """Decode bytes with one of the dataset's readers, and has its error name the file."""
    try:
        pixels: np.ndarray = reader(io.BytesIO(data))
    except DatasetError as error:
        _, _, why = str(error).partition(": ")
        raise DatasetError(f"{name}: {_without_buffer(why)}") from None
    return pixels


def _check_whole(data: bytes, name: str) -> tuple[str | None, int]:
    """Find what decoding alone forgives: a PNG cut or damaged behind its last pixel, and a JPEG without its end.

    Returns:
        The format, and how the image is turned.
    """
    try:
        with open_image(io.BytesIO(data)) as image:
            kind = image.format
            if image.format == "PNG":
                image.verify()
            elif image.format == "JPEG" and b"\xff\xd9" not in data:
                raise OSError("truncated JPEG file")
    except Exception as error:  # whatever a decoder says of hostile bytes
        raise DatasetError(f"{name}: cannot be read ({_without_buffer(error)}); replace or remove it") from None
    # Of a PNG, Pillow would decode the pixels to look for it.
    return kind, _turned(data) if kind != "PNG" or b"eXIf" in data else 1


def _turned(data: bytes) -> int:
    with open_image(io.BytesIO(data)) as image:
        return orientation(image)


def _without_buffer(message: object) -> str:
    """Pillow names what it reads from, which is of no use here."""
    return re.sub(r" ?<_io\.BytesIO[^>]*>", "", str(message))
