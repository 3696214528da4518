"""From any layout to the dataset folder: read, dealt to splits, mapped, checked and written."""

from __future__ import annotations

import io
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np

from segmodels.data.folder import DatasetError, read_label, reading
from segmodels.data.formats.channels import settle
from segmodels.data.formats.common import Splitting, refuse
from segmodels.data.formats.finding import find, layout
from segmodels.data.formats.layout import Choices, Job, Layout, Raw, Reading
from segmodels.data.formats.mapping import Mapping as ClassMapping
from segmodels.data.images import open_image, orientation, turned, upright_size
from segmodels.data.targets import target
from segmodels.data.writer import DatasetWriter
from segmodels.errors import UserError, brief
from segmodels.progress import Heartbeat
from segmodels.runtime import available_cores

LEFT_OUT = ""  # in place of a split
A = TypeVar("A")
B = TypeVar("B")


def convert(
    root: Path | str,
    format: str = "auto",  # noqa: A002
    out: Path | str = "data",
    *,
    name: str | None = None,
    source: Mapping[str, Any] | None = None,
    splitting: Splitting | None = None,
    choices: Choices | None = None,
) -> str:
    """Find the layout in `root`, or up to three folders below, and write it as the dataset folder `out`.

    Args:
        root: The folder to look in, e.g. an unpacked archive.
        format: The key of a layout, or `auto` for the one that fits.
        out: The dataset folder; replaced when all went well, untouched otherwise.
        name: Name of the dataset where its layout has none; by default that of `root`.
        source: `url` or `path`, `sha256` and `licence`, as they go into `dataset.json`.
        splitting: How to deal the splits that the data does not have.
        choices: What a person settles where the files leave it open.

    Returns:
        The key of the layout.

    Raises:
        DatasetError: No layout fits, or several do, or the data is not what its layout says.
    """
    root, out = Path(root), Path(out)
    key, place = find(root, format)
    described = layout(key)
    source = {**(source or {"path": str(root)})}
    source["licence"] = source.get("licence") or described.licence or None
    settled, choices = splitting or Splitting(), choices or Choices()
    with Heartbeat(lambda: f"{place}: reading it as {key}", sys.stderr):
        as_it_is = choices == Choices(targets=choices.targets) and settled.folds is None and settled.fraction == 1
        if described.copy is not None and as_it_is:
            described.copy(place, out, source)
        else:
            write(described, place, out, name or root.resolve().name, source, settled, choices)
    return key


def write(
    layout: Layout,
    root: Path,
    out: Path,
    name: str,
    source: Mapping[str, Any],
    splitting: Splitting,
    choices: Choices,
) -> None:
    """Write what a layout reads in `root` as the dataset folder `out`.

    Raises:
        DatasetError: The data is not what its layout says; all that is wrong with it is listed.
    """
    missing = [t for t in choices.targets if t not in ("labels", *layout.targets)]
    if missing:
        have = ", ".join(layout.targets) or "labels alone"
        raise DatasetError(f"{root}: {layout.title} has no {missing[0]}; it has {have}")
    for key in () if layout.coded else ("values", "threshold", "coding"):
        if getattr(choices, key) is not None:
            raise DatasetError(f"data.{key} is for labels of one's own; those of {layout.title} are fixed: take it out")
    job = Job(choices)
    with _sound(root, layout.title):
        read = layout.read(root, job)
    if choices.background is not None and not (job.draws or layout.coded):
        raise DatasetError(f"data.background: {layout.title} labels every pixel; take it out")
    raw = next((value for value in choices.ignore if not isinstance(value, str)), None)
    if raw is not None and not layout.coded:
        raise DatasetError(f"data.ignore: {raw} is a raw value; classes of {layout.title} are ignored by their names")
    if not _write(read, job, out, read.name or name, source, splitting, layout.title, root):
        raise DatasetError(f"{root}: is {layout.title}, but has no labelled image; looked for {layout.looks_for}")


def write_pair(images: Path, labels: Path, out: Path, splitting: Splitting, choices: Choices | None = None) -> None:
    """Write a folder of images and one of their labels, which lie anywhere, as the dataset folder `out`.

    Raises:
        DatasetError: As `write` does.
    """
    from segmodels.data.formats import folder

    job = Job(choices or Choices())
    read = folder.reading_of([folder.Part(None, images, labels)], labels, job)
    source = {"path": str(images), "labels": str(labels)}
    _write(read, job, out, images.resolve().name, source, splitting, folder.LAYOUT.title, labels)


def _write(
    read: Reading,
    job: Job,
    out: Path,
    name: str,
    source: Mapping[str, Any],
    splitting: Splitting,
    title: str,
    root: Path,
) -> int:
    choices = job.choices
    with _sound(root, title):
        raws = list(read.samples)
    refuse(job.problems)
    if not raws:
        return 0
    if job.draws and len(read.classes) < 2 and choices.background != "ignore":
        raise DatasetError(f"{root}: is {title}, but nothing is drawn on its images; draw what they show")
    mapping = ClassMapping(read.classes, choices)
    splits = deal(raws, splitting)
    job.left_out([r.id for r in raws if splits[r.split, r.id] == LEFT_OUT], f"data.fraction is {splitting.fraction}")
    raws = [raw for raw in raws if splits[raw.split, raw.id] != LEFT_OUT]
    wanted = [t for t in choices.targets if t != "labels"]
    stored = {t: dict(read.stored.get(t, target(t).stored)) for t in wanted}
    with _sound(root, title):
        channels = settle([raw for raw in raws if splits[raw.split, raw.id] == "train"] or raws, choices, read.image)

    def store(raw: Raw) -> str:
        try:
            with _sound(raw.image, title):
                channels.check(raw)
                label = raw.label() if callable(raw.label) else raw.label
                content = raw.content() if raw.content is not None else None
                truth = {t: raw.targets[t]() for t in wanted if t in raw.targets}
            if label is not None:
                label = mapping(_array(label)) if mapping.changes else label
                label = _upright(raw.image if content is None else io.BytesIO(content), raw, label, choices.orientation)
            split, sample_id = splits[raw.split, raw.id], raw.id.replace("/", "_")
            sequence = raw.sequence.replace("/", "_")
            image = raw.image
            if (stacked := channels.content(raw, truth)) is not None:
                image, content = image.with_suffix(".tif"), stacked
            writer.add(split, sample_id, image, label, sequence=sequence, targets=truth, content=content)
        except UserError as error:
            said = str(error)
            return said if "/" in said.partition(":")[0] else f"{raw.image}: {said}"
        return ""

    with DatasetWriter(out, name, mapping.classes, source=source, targets=stored) as writer:
        writer.image = channels.image or {}
        refuse([problem for problem in in_order(store, raws) if problem])
    return len(raws)


@contextmanager
def _sound(where: Path, title: str) -> Iterator[None]:
    """Turn what damaged content makes a reader stumble over into one sentence; a reader's own sentences stay.

    Raises:
        DatasetError: In place of what is no sentence yet.
    """
    try:
        yield
    except (UserError, OSError, MemoryError, NameError, ImportError, AssertionError):
        raise  # of the system, or of this program
    except Exception as error:
        raise DatasetError(f"{where}: its truth is not what {title} holds ({brief(error)}); restore it") from None


def deal(raws: Sequence[Raw], splitting: Splitting) -> dict[tuple[str | None, str], str]:
    """Return the split of each (split, id): the data's own; `val` is dealt from `train` where the data has none.

    With folds, `train` and `val` are dealt anew; what a fraction leaves out has no split.
    """
    own = {raw.split for raw in raws}
    splits = {(raw.split, raw.id): raw.split or "train" for raw in raws}
    if "val" not in own:
        if own != {None}:
            splitting = replace(splitting, test_fraction=0.0)
        free = {(raw.split, raw.id): raw for raw in raws if raw.split in (None, "train")}
        dealt = splitting.assign((i for _, i in free), {raw.id: raw.group for raw in free.values() if raw.group})
        splits |= {key: dealt[key[1]] for key in free}
    groups = {raw.id: raw.group for raw in raws if raw.group}
    if splitting.folds is not None:
        pool = [key for key, split in splits.items() if split != "test"]
        folded = splitting.folded((i for _, i in pool), groups)
        splits |= {key: folded[key[1]] for key in pool}
    if splitting.fraction < 1:
        train = [key for key, split in splits.items() if split == "train"]
        kept = splitting.kept((i for _, i in train), groups)
        splits |= {key: LEFT_OUT for key in train if key[1] not in kept}
    return splits


def in_order(work: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield results in the order of the items, computed on all cores; no more than a few wait to be taken."""
    cores = available_cores()
    waiting: deque[Future[B]] = deque()
    with ThreadPoolExecutor(cores) as pool:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) > 2 * cores:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _array(label: Path | np.ndarray) -> np.ndarray:
    return read_label(label) if isinstance(label, Path) else label


def _has_exif(file: Path | BinaryIO) -> bool:
    """Tell whether Pillow knows the image, or only GDAL does."""
    try:
        with open_image(file):
            return True
    except Exception:
        return False
    finally:
        if not isinstance(file, Path):
            file.seek(0)


def _upright(file: Path | BinaryIO, raw: Raw, label: Path | np.ndarray, chosen: str | None) -> Path | np.ndarray:
    """Return the label as its image is shown, where the image is stored turned or mirrored.

    Raises:
        DatasetError: Label and image have the same size either way, and nobody said how the label lies.
    """
    if not _has_exif(file):
        return label
    with reading(raw.image, "an image"), open_image(file) as opened:
        turn = orientation(opened)
        if turn == 1:
            return label
        shown, stored = upright_size(opened), (opened.height, opened.width)
    values = _array(label)
    if shown != stored and values.shape == shown:
        return label
    if values.shape == stored and shown == stored and chosen is None:
        raise DatasetError(
            f"{raw.image}: its EXIF orientation is {turn}, and its label fits it as it is shown and as it is stored; "
            "set data.orientation to upright or stored"
        )
    if values.shape != stored or (shown == stored and chosen == "upright"):
        return label
    return turned(values, turn)
