"""What a layout is: how a public dataset, or a tool that people label with, arranges its files.

A layout is a description in a file of its own: where it is had and under which licence, which files tell it, its
classes, and how its samples are read. Finding, splitting, mapping of classes and writing are done once for all of them
(`segmodels.data.formats.convert`).

    LAYOUT = Layout(
        "mine", "My dataset", home="https://…", licence="CC BY 4.0",
        marks=("color/*/*.png",), needs=("rgb/*/*.jpg",), looks_for="rgb/ beside color/", read=_read,
    )

    def _read(root: Path, job: Job) -> Reading:
        table = Table.official("mine")
        images = (path for path in image_files(root / "rgb"))
        return Reading(table.classes, (Raw(path.stem, path, by_color(label(path), table.colors())) for path in images))
"""

from __future__ import annotations

import csv
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, ClassInfo
from segmodels.data.palette import Color

# The void of labels with more than 255 classes, until a mapping has made them fewer.
WIDE_VOID = 65535
BACKGROUND = "background"

log = logging.getLogger(__name__)

# Decodes a label or another target when its turn has come. Labels are indices into the reading's classes, uint8
# `[H, W]` with 255 for void, or uint16 with 65535 where there are more than 255 classes.
Decoder = Callable[[], np.ndarray]


@dataclass(frozen=True)
class Raw:
    """A sample as a layout has it.

    Attributes:
        id: Unique within its split; a `/` becomes `_`.
        image: The image file; where `content` is given, only its name counts.
        label: A file of class ids, 8 bits, that is right as it is; or what decodes it, or gives such a file; None where
            the data has no classes.
        split: `train`, `val` or `test`; None where the layout has no splits and they are dealt.
        group: Samples of one group (a scene, a patient, a video) are dealt to one split.
        sequence: The video that the image is a frame of.
        targets: Further truth (`segmodels.data.targets`), decoded where it is asked for.
        content: Gives the bytes of the image file, where a layout keeps them inside another file.
    """

    id: str
    image: Path
    label: Path | Callable[[], np.ndarray | Path] | None
    split: str | None = None
    group: str = ""
    sequence: str = ""
    targets: Mapping[str, Decoder] = field(default_factory=dict)
    content: Callable[[], bytes] | None = None


@dataclass(frozen=True)
class Reading:
    """What a layout reads: its classes in label order, and its samples, in any order.

    Attributes:
        classes: The classes.
        samples: Read once, from first to last.
        name: Of the dataset, where not the layout's key.
        stored: What `dataset.json` says of a further target, where it is not the target's default.
        image: What `dataset.json` says of the images, where the data itself tells it.
    """

    classes: tuple[ClassInfo, ...]
    samples: Iterable[Raw]
    name: str = ""
    stored: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    image: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Choices:
    """What a person settles where files leave it open.

    Attributes:
        background: What pixels are that nothing is drawn on: the name of a class, or `ignore`; None keeps the layout's
            own rule, which is a class `background`.
        ignore: Names of classes, or raw values of labels, that are void.
        values: In labels of one's own: raw value, or colour, -> name of its class, `void` for none; or `occurring`,
            where each value that occurs shall be a class.
        threshold: In labels of one's own: values from here on are the foreground, those below the background.
        coding: What counts in palette images of one's own: `index` or `color`.
        classes: New class -> the classes that become it; `*` stands for all others. Without it, or where a class is in
            none of them, see `segmodels.data.formats.mapping`.
        orientation: How labels lie whose image has an EXIF orientation: `upright` as the image is shown, `stored` as
            its pixels are stored.
        targets: Further truth that is wanted.
        depth_scale: Metres of one step of depths whose files do not say it.
        attribute: What has the class in labels that are vectors.
        tile: Side in pixels of the tiles that rasters are cut into.
        bands: Bands of image files, from 1, or names of targets, which become the network's channels; None is RGB.
        scale: (low, high), of all bands or of each, that become black and white; `auto` takes them from the images.
    """

    background: str | None = None
    ignore: tuple[str | int, ...] = ()
    values: Mapping[Any, str] | str | None = None
    threshold: int | None = None
    coding: str | None = None
    classes: Mapping[str, Sequence[str]] | None = None
    orientation: str | None = None
    targets: tuple[str, ...] = ()
    depth_scale: float | None = None
    attribute: str | None = None
    tile: int | None = None
    bands: tuple[int | str, ...] | None = None
    scale: Any = None


@dataclass
class Job:
    """One reading: what was chosen, and what is found wrong, which is told all at once."""

    choices: Choices = field(default_factory=Choices)
    problems: list[str] = field(default_factory=list)
    draws: bool = False  # whether `undrawn` was asked for

    def left_out(self, items: Sequence[object], why: str) -> None:
        """Tell that these files are not read, how many they are and the first of them."""
        if items:
            log.warning("%d left out, %s first: %s", len(items), items[0], why)

    def noted(self, what: str) -> None:
        """Tell what a person would want to know of the reading."""
        log.warning("%s", what)

    def undrawn(self, classes: Sequence[ClassInfo]) -> tuple[tuple[ClassInfo, ...], int]:
        """Return the classes with the one of pixels that nothing is drawn on, and its index (255 or 65535 for void).

        By default it is `background`, in front of the others, or the class that is called so already.
        """
        self.draws = True
        wanted = self.choices.background or BACKGROUND
        if wanted == "ignore":
            return tuple(classes), void_of(classes)
        for index, info in enumerate(classes):
            if info.name.lower().strip("_ ") == wanted.lower():
                return tuple(classes), index
        return (ClassInfo(wanted, (0, 0, 0)), *classes), 0


@dataclass(frozen=True)
class Fit:
    """How well a folder fits a layout.

    Attributes:
        evidence: The files that tell it.
        lacks: What the layout needs beside them and is not there; empty where it fits.
    """

    evidence: str
    lacks: str = ""


@dataclass(frozen=True)
class Layout:
    """A layout.

    Attributes:
        key: Its name for `data.format`; that of its file.
        title: The dataset's or tool's own name.
        home: Address of its page.
        licence: The licence that its page states; "" where each export has its own.
        looks_for: What tells it, in words.
        read: Reads the folder.
        marks: Patterns below the folder, of files that no other layout has; all have to match.
        needs: Patterns of what is needed beside them.
        detect: Tells how the folder fits, where patterns do not do.
        over: Keys of layouts that the same files fit, too, and that this one is more particular than.
        obtain: What to do to get the data, where that is more than a download.
        splits: Where splits come from: `official`, or what is dealt.
        targets: Further truth that it has.
        classes: Number of its classes where it is fixed, e.g. "19"; otherwise where they come from.
        by_name: Read only where `data.format` names it: the same files are another layout, too.
        coded: Its labels are somebody's own, so `values`, `threshold` and `coding` settle how they are read.
        generic: Fits almost anything: tried where no other layout fits the same folder.
        copy: Writes the dataset folder itself, in place of `read`; for what is one already.
    """

    key: str
    title: str
    home: str
    licence: str
    looks_for: str
    read: Callable[[Path, Job], Reading]
    marks: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    detect: Callable[[Path], Fit | None] | None = None
    over: tuple[str, ...] = ()
    obtain: str = ""
    splits: str = "official"
    targets: tuple[str, ...] = ()
    classes: str = ""
    by_name: bool = False
    generic: bool = False
    coded: bool = False
    copy: Callable[[Path, Path, Mapping[str, object]], None] | None = None

    def fit(self, root: Path) -> Fit | None:
        """Tell how the folder fits, by the names of its files alone."""
        return self.detect(root) if self.detect is not None else fits(root, self.marks, self.needs)


def void_of(classes: Sequence[object]) -> int:
    """Return the index of void in labels of so many classes: 255, or 65535 where these are more than 8 bits hold."""
    return IGNORE_INDEX if len(classes) <= IGNORE_INDEX else WIDE_VOID


def fits(root: Path, marks: Sequence[str], needs: Sequence[str] = ()) -> Fit | None:
    """Tell how patterns match below a folder: not at all, all of them, or the marks alone."""
    seen: list[Path] = []
    for pattern in marks:
        path = first(root, pattern)
        if path is None:
            return None
        seen.append(path)
    lacks = [pattern for pattern in needs if first(root, pattern) is None]
    return Fit(", ".join(path.relative_to(root).as_posix() for path in seen), " and ".join(lacks)) if seen else None


def first(root: Path, pattern: str) -> Path | None:
    """Return a path below the folder that matches, hidden ones left out."""
    for path in root.glob(pattern):
        if not any(part.startswith(".") for part in path.relative_to(root).parts):
            return path
    return None


@dataclass(frozen=True)
class Table:
    """A fixed table of classes: raw id, name and colour of each, as the dataset's authors give them."""

    rows: tuple[tuple[int, ClassInfo], ...]

    @classmethod
    def official(cls, name: str) -> Table:
        """Return the table of this name, `tables/<name>.csv`, whose rows are `id,name,r,g,b`."""
        path = Path(__file__).with_name("tables") / f"{name}.csv"
        with path.open(newline="", encoding="utf-8") as file:
            rows = [
                (int(row["id"]), ClassInfo(row["name"], (int(row["r"]), int(row["g"]), int(row["b"]))))
                for row in csv.DictReader(line for line in file if not line.startswith("#"))
            ]
        return cls(tuple(rows))

    @property
    def classes(self) -> tuple[ClassInfo, ...]:
        """The classes in label order."""
        return tuple(info for _, info in self.rows)

    def ids(self, *void: int) -> dict[int, int]:
        """Return raw id -> class index; the given raw ids are void."""
        return dict.fromkeys(void, void_of(self.rows)) | {raw: index for index, (raw, _) in enumerate(self.rows)}

    def colors(self, *void: Color) -> dict[Color, int]:
        """Return colour -> class index; the given colours are void."""
        return dict.fromkeys(void, IGNORE_INDEX) | {c.color: index for index, (_, c) in enumerate(self.rows)}


def named_alike(folder: Path, ending: str = ".png") -> Callable[[Path], Path]:
    """Return what gives an image's partner in a folder: the file of its stem with this ending."""

    def partner(image: Path) -> Path:
        return folder / f"{image.stem}{ending}"

    return partner


def paired(
    images: Iterable[Path], partner: Callable[[Path], Path], job: Job, what: str = "label"
) -> Iterator[tuple[Path, Path]]:
    """Yield each image with its label; one that is missing is a problem that names both."""
    for image in images:
        label = partner(image)
        if label.is_file():
            yield image, label
        else:
            job.problems.append(f"{image}: has no {what}; {label} is missing: add it, or remove the image")
