"""Inputs of a prediction: the files behind paths, folders and stores, and what their results are called.

An image `a.jpg` gives `a.png`, the class ids with the classes' colours as palette, and `a.overlay.jpg`. A video
`a.mp4` gives the folder `a.masks/` with `000000.png` for its first frame, and `a.overlay.mp4`. A raster, which is a
TIFF with a place on the earth or too large to be decoded whole, gives `a.tif` and `a.overlay.tif`. What lies in a given
folder keeps its place below it. A result appears when it is complete, and what exists is not computed again. Results
carry a mark, so that they are no inputs where they lie among the images.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np

from segmodels.data.folder import IMAGE_SUFFIXES, DatasetError
from segmodels.data.images import TooManyPixelsError, open_image
from segmodels.files import NameRefusedError
from segmodels.inference import rasters
from segmodels.inference.stores import RemoteError, Store, is_remote
from segmodels.tasks.base import Task
from segmodels.tasks.pictures import MARK

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"}
    | {".3gp", ".gif"}
)
_SOFTWARE = 305
Kind = Literal["image", "video", "raster"]
_RESULTS: dict[Kind, tuple[str, str]] = {
    "image": (".png", ".overlay.jpg"),
    "video": (".masks", ".overlay.mp4"),
    "raster": (".tif", ".overlay.tif"),
}
_FIRST_FRAME = "000000.png"
# FFmpeg's demuxers that read the file they are given and no other, unlike playlists and scripts of cuts.
DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,asf,flv,ogg,gif"


class Model(Protocol):
    """What predicts; `segmodels.inference.predictor.Predictor` does."""

    config: Any
    task: Task

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Return what the task predicts of an RGB image, uint8 `[H, W, 3]`."""

    def maps(self, image: np.ndarray) -> Any:
        """Return the task's maps of such an image, float32 `[C, H, W]`."""

    def fingerprint(self) -> str:
        """Return what tells the model and its settings from others."""


@dataclass(frozen=True)
class Input:
    """A file to predict.

    Attributes:
        path: The file; in a store its name there.
        place: Its path below the folder it was found in, or its name; its results are called so, without the suffix.
        kind: Image, video or raster.
        store: Where it lies; None on this machine.
    """

    path: Path
    place: Path
    kind: Kind
    store: Store | None = None

    @property
    def shown(self) -> str:
        """What it is called in messages."""
        return str(self.path) if self.store is None else self.store.address(self.path.as_posix())

    @property
    def identity(self) -> Path | str:
        """The same for the same file only."""
        return self.path.resolve() if self.store is None else self.shown


@dataclass
class Job:
    """An input and where its results go; None where that result is not wanted.

    In a `store` the results' paths are their names there.
    """

    input: Input
    masks: Path | None
    overlay: Path | None
    store: Store | None = None

    @property
    def done(self) -> bool:
        """Whether every result exists."""
        results = [p for p in (self.masks, self.overlay) if p is not None]
        if self.store is None:
            return all(p.exists() for p in results)
        return all(self.store.has(p.as_posix(), first=_FIRST_FRAME if p.suffix == ".masks" else "") for p in results)


def find_inputs(paths: Sequence[Path | str], out: Path | Store) -> tuple[list[Input], list[str]]:
    """Return the files behind the given paths, folders with all that is below them, and a sentence for each bad path.

    Results of an earlier run are no inputs: those in a folder of their own, and among images those with our mark.

    Args:
        paths: Files, folders, and addresses of objects or of prefixes (`s3://bucket/prefix`).
        out: Where the results go.
    """
    items: list[Input] = []
    problems: list[str] = []
    for given in paths:
        if isinstance(given, str) and is_remote(given):
            try:
                inside = _stored(Store(given), out)
            except (RemoteError, NameRefusedError) as error:
                problems.append(str(error))
                continue
            if not inside:
                problems.append(f"{given}: holds no image and no video")
            items += inside
            continue
        path = Path(given)
        if path.is_dir():
            media = list(_media(path, out))
            inside = [Input(p, p.relative_to(path), _kind(p)) for p, ours in media if not ours]
            if not media:
                problems.append(f"{path}: holds no image and no video")
            items += inside
        elif path.is_file():
            if not (_lies_in(path, out) and is_result(path)):
                items.append(Input(path, Path(path.name), _kind(path)))
        else:
            problems.append(f"{path}: no such file or folder")
    unique = {item.identity: item for item in reversed(items)}
    return list(reversed(unique.values())), problems


def plan(inputs: Sequence[Input], out: Path | Store, *, masks: bool = True, overlays: bool = True) -> list[Job]:
    """Give each input's results a name of their own.

    Inputs that differ in their suffix alone keep it (`a.jpg.png`); those that still collide get the name of their
    folder in front, or a number.

    Raises:
        DatasetError: A result would replace an input.
    """
    sources = {item.identity for item in inputs}
    store = out if isinstance(out, Store) else None
    folder = Path() if isinstance(out, Store) else out
    jobs = []
    for item, name in zip(inputs, _names(inputs), strict=True):
        stem = folder / name
        places = [stem.with_name(stem.name + suffix) for suffix in _RESULTS[item.kind]]
        for place in places:
            shown = store.address(place.as_posix()) if store else str(place)
            if (shown if store else place.resolve()) in sources:
                raise DatasetError(f"{shown}: is an input and would be replaced; choose another folder for the results")
        jobs.append(Job(item, places[0] if masks else None, places[1] if overlays else None, store))
    return jobs


def is_result(file: Path | BinaryIO, suffix: str = "") -> bool:
    """Tell whether a file carries the mark of a result of this module.

    Args:
        file: The file.
        suffix: The ending of its name, where `file` is not a path.
    """
    suffix = (suffix or Path(str(file)).suffix).lower()
    try:
        if suffix in VIDEO_SUFFIXES:
            import av

            opened = str(file) if isinstance(file, Path) else file
            with av.open(opened, options={"protocol_whitelist": "file", "format_whitelist": DEMUXERS}) as container:
                return container.metadata.get("comment") == MARK
        with open_image(file) as image:
            marks = (image.info.get("Software"), image.info.get("comment"), getattr(image, "tag_v2", {}).get(_SOFTWARE))
            return MARK in marks or MARK.encode() in marks
    except Exception:  # no image or video, or a damaged one: no result
        return False


def _lies_in(path: Path, out: Path | Store) -> bool:
    return isinstance(out, Path) and path.resolve().is_relative_to(out.resolve())


def _media(folder: Path, out: Path | Store) -> Iterator[tuple[Path, bool]]:
    """Yield images and videos under `folder`, sorted, and whether each is a result; hidden ones left out."""
    # A folder of results below is left out as a whole; where they lie among the images, each is looked at.
    apart = _lies_in(out, folder) and not _lies_in(folder, out) if isinstance(out, Path) else False
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES or not path.is_file():
            continue
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue
        if not (apart and _lies_in(path, out)):
            yield path, _lies_in(path, out) and is_result(path)


def _stored(store: Store, out: Path | Store) -> list[Input]:
    """Return images and videos in a store, sorted; hidden ones and those under `out` left out."""
    if store.is_file:
        name = store.url.rpartition("/")[2]
        return [_stored_input(store.parent(), name)]
    out_url = f"{out.url}/" if isinstance(out, Store) else None
    apart = out_url is not None and not f"{store.url}/".startswith(out_url)
    items = []
    for name in sorted(store.files):
        path = Path(name)
        if path.suffix.lower() not in IMAGE_SUFFIXES | VIDEO_SUFFIXES or any(p.startswith(".") for p in path.parts):
            continue
        if out_url is not None and store.address(name).startswith(out_url):
            if apart:
                continue
            with store.open(name) as file:
                if is_result(file, path.suffix):
                    continue
        items.append(_stored_input(store, name))
    return items


def _stored_input(store: Store, name: str) -> Input:
    suffix = Path(name).suffix.lower()
    kind: Kind = "image" if suffix in IMAGE_SUFFIXES else "video"
    if suffix in rasters.SUFFIXES:
        with store.open(name) as file:
            kind = "raster" if rasters.is_raster(file) else "image"
    return Input(Path(name), Path(name), kind, store)


def _kind(path: Path) -> Kind:
    suffix = path.suffix.lower()
    if suffix in rasters.SUFFIXES and rasters.is_raster(path):
        return "raster"
    if suffix in IMAGE_SUFFIXES:
        return "image"
    if suffix in VIDEO_SUFFIXES:
        return "video"
    try:
        with open_image(path):
            return "image"
    except TooManyPixelsError:
        return "image"
    except Exception:  # whatever Pillow says of what is no image
        return "video"


def _names(inputs: Sequence[Input]) -> list[str]:
    """Return a name for each input's results, without suffix; all differ, also where case does not count."""

    def forms(item: Input) -> list[str]:
        whole = item.place.as_posix()
        return [item.place.with_suffix("").as_posix(), whole, f"{_folder(item)}/{whole}"]

    names = [forms(item)[0] for item in inputs]
    for level in (1, 2):
        twice = {name for name, count in Counter(n.casefold() for n in names).items() if count > 1}
        names = [forms(i)[level] if n.casefold() in twice else n for i, n in zip(inputs, names, strict=True)]
    taken: set[str] = set()
    for index, name in enumerate(names):
        number = 2
        while names[index].casefold() in taken:
            names[index] = f"{name}-{number}"
            number += 1
        taken.add(names[index].casefold())
    return names


def _folder(item: Input) -> str:
    """Return the name of the folder that holds it."""
    return item.path.resolve().parent.name if item.store is None else item.shown.split("/")[-2]
