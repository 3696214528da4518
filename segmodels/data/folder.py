"""The dataset folder: one layout for every dataset, whatever format it came in.

    dataset.json                 name, classes, ignore_index, counts per split, source, targets
    <split>/images/<id>.<ext>    the original file, byte for byte
    <split>/labels/<id>.png      8-bit class ids 0..C-1, 255 = ignore
    <split>/<target>/<id>.*      optional further targets (`segmodels.data.targets`): instances, depth, normals

Splits are `train`, `val` and `test`; a dataset without public test labels has no `test`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segmodels.data.images import open_image, upright_rgb
from segmodels.errors import UserError, brief, printable
from segmodels.files import ContentError, NameRefusedError, read_json, relative, utf8
from segmodels.files import name as file_name

IGNORE_INDEX = 255
# Labels have 8 bits, of which 255 is the ignored pixel.
MAX_CLASSES = 255
SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm"})
INFO_FILE = "dataset.json"


class DatasetError(UserError, ValueError):
    """The data is not what it should be; the message names the file and what to do."""


@dataclass(frozen=True)
class ClassInfo:
    """One class: its name and the colour, (r, g, b) in 0..255, it is drawn in."""

    name: str
    color: tuple[int, int, int]


@dataclass(frozen=True)
class DatasetInfo:
    """The content of `dataset.json`.

    Attributes:
        name: Name of the dataset, e.g. `camvid`.
        classes: The classes in label order; class `i` has the id `i`. Without classes there are no labels, but further
            targets.
        splits: Number of samples in each split.
        source: Where it came from: `url` or `path`, `sha256`, `licence`.
        targets: Further targets that lie beside the labels, name -> how its files are to be read: `unit`, `scale`.
        ignore_index: The label of pixels that count nowhere; always 255.
        image: How image files are read where they are not RGB of 8 bits (`segmodels.data.bands`): `take`, `scale`, and
            of the training images `mean` and `std` of each channel, in 0..1.
        sequences: Of each split, name of a sequence -> ids of its frames in their order; what stands in none of them
            is an image by itself.
    """

    name: str
    classes: tuple[ClassInfo, ...]
    splits: Mapping[str, int] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    ignore_index: int = IGNORE_INDEX
    sequences: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    @property
    def class_names(self) -> list[str]:
        return [c.name for c in self.classes]

    @property
    def palette(self) -> list[tuple[int, int, int]]:
        return [c.color for c in self.classes]

    @property
    def eval_split(self) -> str:
        """`test` where the dataset has one, else `val`."""
        return "test" if self.splits.get("test") else "val"

    @classmethod
    def read(cls, root: Path | str) -> DatasetInfo:
        """Read `root/dataset.json`.

        Raises:
            DatasetError: The file is missing or not a description of a dataset.
        """
        path = Path(root) / INFO_FILE
        try:
            raw = read_json(path)
            described = cls(
                name=str(raw["name"]),
                classes=tuple(ClassInfo(str(c["name"]), _color(c["color"])) for c in raw["classes"]),
                splits={str(k): int(v) for k, v in raw.get("splits", {}).items()},
                source=dict(raw.get("source", {})),
                targets=_targets(raw.get("targets", {}), f"{path}: target"),
                ignore_index=int(raw.get("ignore_index", IGNORE_INDEX)),
                sequences={
                    str(split): {
                        str(relative(name, f"{path}: sequence")): tuple(file_name(i, f"{path}: id") for i in ids)
                        for name, ids in named.items()
                    }
                    for split, named in raw.get("sequences", {}).items()
                },
                image=dict(raw.get("image", {})),
            )
        except FileNotFoundError:
            raise DatasetError(f"{path}: no such file; `python -m components download` writes it") from None
        except (NameRefusedError, ContentError) as error:
            raise DatasetError(str(error)) from None
        except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
            raise DatasetError(f"{path}: not a dataset description ({brief(error)}); download it again") from None
        _check_described(described, path)
        return described

    def write(self, root: Path | str) -> None:
        """Write `root/dataset.json`."""
        content = {key: value for key, value in asdict(self).items() if key not in ("sequences", "image") or value}
        content["targets"] = content["targets"] or []  # as ever, so that the same data has the same hash
        Path(root, INFO_FILE).write_text(json.dumps(content, indent=2) + "\n")


@dataclass(frozen=True)
class Sample:
    """One labelled image: its id and its files.

    Attributes:
        id: The file's stem, unique within the split.
        image: The image file.
        targets: Name of a target -> its file.
    """

    id: str
    image: Path
    targets: Mapping[str, Path]

    @property
    def label(self) -> Path:
        """The file of class ids."""
        return self.targets["labels"]


def _check_described(info: DatasetInfo, path: Path) -> None:
    if info.num_classes > MAX_CLASSES:
        raise DatasetError(f"{path}: has {info.num_classes} classes; 1 to {MAX_CLASSES} fit into labels of 8 bits")
    if not info.num_classes and not info.targets:
        raise DatasetError(f"{path}: has neither classes nor further targets; there is nothing to learn")
    if other := (info.splits.keys() | info.sequences.keys()) - set(SPLITS):
        raise DatasetError(f"{path}: split {printable(repr(min(other)))} is unknown; splits are {', '.join(SPLITS)}")
    if info.ignore_index != IGNORE_INDEX:
        raise DatasetError(f"{path}: ignore_index is {info.ignore_index}; it is always {IGNORE_INDEX}")
    if twice := [name for name in info.class_names if info.class_names.count(name) > 1]:
        raise DatasetError(f"{path}: class {twice[0]!r} stands twice; every class needs its own name")


def samples(root: Path | str, split: str, needs: Sequence[str] = ("labels",)) -> list[Sample]:
    """Return the samples of a split, sorted by id.

    Args:
        root: Dataset folder.
        split: `train`, `val` or `test`.
        needs: The targets that each of them has.

    Raises:
        DatasetError: The split does not exist, or an image lacks a target.
    """
    folder = Path(root) / split
    images = folder / "images"
    if split not in SPLITS or not images.is_dir():
        known = ", ".join(s for s in SPLITS if (Path(root) / s / "images").is_dir()) or "none"
        raise DatasetError(f"{printable(folder)}: no such split; the dataset has {known}")
    listing = []
    for image in sorted(utf8(p) for p in images.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        files = {name: folder / name / f"{image.stem}.png" for name in needs}
        for name, file in files.items():
            if not file.is_file():
                what = "label" if name == "labels" else name
                raise DatasetError(f"{split}/images/{image.name}: has no {what}; {split}/{name}/{file.name} is missing")
        listing.append(Sample(image.stem, image, files))
    return listing


def read_image(path: Path | str) -> np.ndarray:
    """Return an image file as RGB, uint8 `[H, W, 3]`, turned upright as its EXIF says.

    Raises:
        DatasetError: The file is not an image or is truncated.
    """
    with reading(path, "an image"), open_image(path) as image:
        return upright_rgb(image)


def read_label(path: Path | str) -> np.ndarray:
    """Return a label file as class ids, uint8 `[H, W]`; palette images give their indices.

    Raises:
        DatasetError: The file is unreadable or not a single-channel 8-bit image.
    """
    with reading(path, "a label"), open_image(path) as image:
        if image.mode not in ("L", "P"):
            raise DatasetError(f"{path}: mode {image.mode}; a label is an 8-bit single-channel PNG of class ids")
        return np.asarray(image)


@contextmanager
def reading(path: Path | str | BinaryIO, what: str) -> Iterator[None]:
    """Where a file from outside is decoded: whatever a decoder says of hostile bytes names the file.

    Raises:
        DatasetError: In place of any other error of the body.
    """
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{printable(path)}: cannot be read as {what} ({why}); replace or remove it") from None


def iterate(root: Path | str, split: str) -> Iterator[tuple[Sample, np.ndarray, np.ndarray]]:
    """Sample, image `[H, W, 3]` and label `[H, W]` of a split, in order of their ids."""
    for sample in samples(root, split):
        yield sample, read_image(sample.image), read_label(sample.label)


def _targets(given: Any, what: str) -> dict[str, dict[str, Any]]:
    """Return the targets; a plain list of names, as earlier releases wrote it, says nothing of their files."""
    described = given.items() if isinstance(given, Mapping) else [(name, {}) for name in given]
    targets = {}
    for name, stored in described:
        if name in ("images", "labels"):
            raise NameRefusedError(f"{what} {name!r} is a folder that every split has; rename it")
        targets[file_name(name, what)] = dict(stored)
    return targets


def _color(value: Any) -> tuple[int, int, int]:
    red, green, blue = (int(v) for v in value)
    return red, green, blue
