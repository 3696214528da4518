"""Predictions for files: which inputs there are, what their results are called, and how those are written.

An image `a.jpg` gives `a.png`, the class ids with the classes' colours as palette, and `a.overlay.jpg`. A video
`a.mp4` gives the folder `a.masks/` with `000000.png` for its first frame, and `a.overlay.mp4`. A raster, which is a
TIFF with a place on the earth or too large to be decoded whole, gives `a.tif` and `a.overlay.tif`. What lies in a given
folder keeps its place below it. A result appears when it is complete, and what exists is not computed again. Results
carry a mark, so that they are no inputs where they lie among the images.

Inputs and results may lie in an object store: they pass through a temporary folder, one at a time.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Literal, Protocol

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngInfo

from segmodels import rasters
from segmodels.data.dataset import IMAGE_SUFFIXES, DatasetError, read_image, replace_folder
from segmodels.data.images import TooManyPixelsError, open_image
from segmodels.files import NameRefusedError
from segmodels.remote import RemoteError, Store, is_remote
from segmodels.visualize import overlay

if TYPE_CHECKING:
    import av

VIDEO_SUFFIXES = frozenset(
    {".mp4", ".mov", ".m4v", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv", ".flv", ".ogv"}
    | {".3gp", ".gif"}
)
JPEG_QUALITY = 92
# Stands in each result: as text of a PNG, comment of a JPEG and a film, software of a TIFF.
MARK = rasters.MARK
_SOFTWARE = 305

Kind = Literal["image", "video", "raster"]
_RESULTS: dict[Kind, tuple[str, str]] = {
    "image": (".png", ".overlay.jpg"),
    "video": (".masks", ".overlay.mp4"),
    "raster": (".tif", ".overlay.tif"),
}
_FIRST_FRAME = "000000.png"
# FFmpeg's demuxers that read the file they are given and no other, unlike playlists and scripts of cuts.
_DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegts,mpegvideo,m4v,asf,flv,ogg,gif"


class Model(Protocol):
    """What predicts; `segmodels.inference.Predictor` does."""

    config: Any

    def predict(self, image: np.ndarray) -> np.ndarray:
        """Class ids, uint8 `[H, W]`, of an RGB image, uint8 `[H, W, 3]`."""


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


@dataclass
class Outcome:
    """What became of the inputs: how many were written and left as they were, and a sentence for each that failed."""

    written: int = 0
    skipped: int = 0
    problems: list[str] = field(default_factory=list)


def find_inputs(paths: Sequence[Path | str], out: Path | Store) -> tuple[list[Input], list[str]]:
    """The files behind the given paths, folders with all that is below them, and a sentence for each bad path.

    Results of an earlier run are no inputs: those in a folder of their own, and among images those with our mark.

    Args:
        paths: Files, folders, and addresses of objects or of prefixes (`s3://bucket/prefix`).
        out: Where the results go.
    """
    found: list[Input] = []
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
            found += inside
            continue
        path = Path(given)
        if path.is_dir():
            media = list(_media(path, out))
            inside = [Input(p, p.relative_to(path), _kind(p)) for p, ours in media if not ours]
            if not media:
                problems.append(f"{path}: holds no image and no video")
            found += inside
        elif path.is_file():
            if not (_lies_in(path, out) and is_result(path)):
                found.append(Input(path, Path(path.name), _kind(path)))
        else:
            problems.append(f"{path}: no such file or folder")
    unique = {item.identity: item for item in reversed(found)}
    return list(reversed(unique.values())), problems


def plan(inputs: Sequence[Input], out: Path | Store, *, masks: bool = True, overlays: bool = True) -> list[Job]:
    """Gives each input's results a name of their own.

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


def run(
    jobs: Sequence[Job],
    model: Model,
    *,
    overwrite: bool = False,
    alpha: float = 0.5,
    window: tuple[int, int] = rasters.WINDOW,
    on_frame: Callable[[Job], None] = lambda job: None,
    on_done: Callable[[Job], None] = lambda job: None,
    on_problem: Callable[[str], None] = lambda problem: None,
) -> Outcome:
    """Predicts every input; one that cannot be read does not stop the others.

    Args:
        jobs: From `plan`.
        model: What predicts.
        overwrite: Computes also what exists.
        alpha: How much of the colours is seen in overlays, 0..1.
        window: (height, width) in which rasters are predicted.
        on_frame: Called after each frame of a video and each window of a raster.
        on_done: Called after each input, whatever became of it.
        on_problem: Called with the sentence about an input that failed.
    """
    outcome = Outcome()
    for job in jobs:
        try:
            if job.done and not overwrite:
                outcome.skipped += 1
            else:
                with _staged(job) as here:
                    _predict(here, model, alpha, window, on_frame)
                outcome.written += 1
        except DatasetError as error:
            outcome.problems.append(str(error))
            on_problem(str(error))
        except RuntimeError as error:  # torch: not enough memory, an image smaller than the network takes
            problem = (
                f"{job.input.shown}: the network failed ({str(error).splitlines()[0]}); --window takes less memory"
            )
            outcome.problems.append(problem)
            on_problem(problem)
        on_done(job)
    return outcome


def write_mask(label: np.ndarray, palette: Sequence[Sequence[int]], path: Path) -> None:
    """Writes class ids, uint8 `[H, W]`, as a palette PNG in the classes' colours, whole or not at all."""
    image = (
        Image.fromarray(label, mode="P") if label.dtype == np.uint8 else Image.fromarray(label.astype(np.uint8), "P")
    )
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    image.putpalette(colors.tobytes())
    told = PngInfo()
    told.add_text("Software", MARK)
    _save(image, path, "PNG", pnginfo=told)


def _predict_image(job: Job, model: Model, alpha: float) -> None:
    image = read_image(job.input.path)
    label = model.predict(image)
    palette = model.config.palette
    if job.masks is not None:
        write_mask(label, palette, job.masks)
    if job.overlay is not None:
        picture = Image.fromarray(overlay(image, label, palette, alpha))
        _save(picture, job.overlay, "JPEG", quality=JPEG_QUALITY, comment=MARK)


def _predict(job: Job, model: Model, alpha: float, window: tuple[int, int], on_frame: Callable[[Job], None]) -> None:
    """Predicts what lies on this machine, to this machine."""
    _parent(job)
    if job.input.kind == "image":
        _predict_image(job, model, alpha)
    elif job.input.kind == "video":
        _predict_video(job, model, alpha, on_frame)
    else:
        rasters.predict_raster(
            job.input.path,
            model.predict,
            model.config.palette,
            masks=job.masks,
            overlays=job.overlay,
            window=window,
            alpha=alpha,
            on_window=lambda: on_frame(job),
        )


@contextlib.contextmanager
def _staged(job: Job) -> Iterator[Job]:
    """The job with all its files on this machine; leaving it stores what was written."""
    source, store = job.input, job.store
    if source.store is None and store is None:
        yield job
        return
    with tempfile.TemporaryDirectory(prefix="segmodels-") as held:
        path = source.path
        if source.store is not None:
            path = Path(held, source.place.name)
            source.store.fetch(source.path.as_posix(), path)
        local = {p: Path(held, "results", p.name) if store else p for p in (job.masks, job.overlay) if p is not None}
        try:
            yield Job(
                Input(path, source.place, source.kind),
                local[job.masks] if job.masks is not None else None,
                local[job.overlay] if job.overlay is not None else None,
            )
        except DatasetError as error:
            raise DatasetError(str(error).replace(str(path), source.shown)) from None
        if store is not None:
            for name, result in local.items():
                store.put(result, name.as_posix())


def _predict_video(job: Job, model: Model, alpha: float, on_frame: Callable[[Job], None]) -> None:
    import av

    palette = model.config.palette
    masks = job.masks.with_name(job.masks.name + ".part") if job.masks is not None else None
    film = job.overlay.with_name(job.overlay.name + ".part") if job.overlay is not None else None
    try:
        if masks is not None:
            shutil.rmtree(masks, ignore_errors=True)
            masks.mkdir()
        writer = _Film(film) if film is not None else None
        count = 0
        try:
            for image, seconds, rate in _frames(job.input.path):
                label = model.predict(image)
                if masks is not None:
                    write_mask(label, palette, masks / f"{count:06d}.png")
                if writer is not None:
                    writer.add(overlay(image, label, palette, alpha), seconds, rate)
                count += 1
                on_frame(job)
        finally:
            if writer is not None:
                writer.close()
        if count == 0:
            raise DatasetError(f"{job.input.path}: a video without frames")
        if masks is not None and job.masks is not None:
            replace_folder(masks, job.masks)
        if film is not None and job.overlay is not None:
            os.replace(film, job.overlay)
    except (av.FFmpegError, UnidentifiedImageError) as error:
        raise DatasetError(f"{job.input.path}: cannot be read as a video ({error.strerror}); replace it") from None
    finally:
        if masks is not None:
            shutil.rmtree(masks, ignore_errors=True)
        if film is not None:
            film.unlink(missing_ok=True)


def _frames(path: Path) -> Iterator[tuple[np.ndarray, Fraction, Fraction]]:
    """Each frame as RGB uint8 `[H, W, 3]`, turned upright, with its time in seconds and the film's frames a second."""
    import av

    with av.open(str(path), options={"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}) as container:
        if not container.streams.video:
            raise DatasetError(f"{path}: neither an image nor a video")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        rate = Fraction(stream.average_rate or stream.guessed_rate or 25)
        for index, frame in enumerate(container.decode(stream)):
            image = frame.to_ndarray(format="rgb24")
            if frame.rotation:
                image = np.ascontiguousarray(np.rot90(image, round(frame.rotation / 90)))
            timed = frame.pts is not None and frame.time_base is not None
            yield image, frame.pts * frame.time_base if timed else index / rate, rate


class _Film:
    """An H.264 file that any player shows; frames keep the times they had."""

    _CLOCK = Fraction(1, 90_000)

    def __init__(self, path: Path) -> None:
        import av

        self.container = av.open(str(path), "w", format="mp4")
        self.container.metadata["comment"] = MARK
        self.stream: av.VideoStream | None = None
        self._last = -1

    def add(self, image: np.ndarray, seconds: Fraction, rate: Fraction) -> None:
        """Adds a frame, RGB uint8 `[H, W, 3]`; the first one decides the size."""
        import av

        height, width = image.shape[:2]
        if self.stream is None:
            codec = "libx264" if "libx264" in av.codecs_available else "mpeg4"
            self.stream = self.container.add_stream(codec, rate=rate)
            # Colours have half the resolution, so sides are even.
            self.stream.width, self.stream.height = width + width % 2, height + height % 2
            self.stream.pix_fmt = "yuv420p"
            self.stream.codec_context.time_base = self._CLOCK
            if codec == "libx264":
                self.stream.options = {"crf": "20"}
        rows, columns = self.stream.height - height, self.stream.width - width
        if 0 <= rows <= 1 and 0 <= columns <= 1:
            image = np.pad(image, ((0, rows), (0, columns), (0, 0)), mode="edge")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
        # Times that stand still or go back, as cut films have them, would be refused.
        self._last = max(self._last + 1, round(seconds / self._CLOCK))
        frame.pts, frame.time_base = self._last, self._CLOCK
        self.container.mux(self.stream.encode(frame))

    def close(self) -> None:
        if self.stream is not None:
            self.container.mux(self.stream.encode(None))
        self.container.close()


def is_result(file: Path | BinaryIO, suffix: str = "") -> bool:
    """Whether a file carries the mark of a result of this module.

    Args:
        file: The file.
        suffix: The ending of its name, where `file` is not a path.
    """
    suffix = (suffix or Path(str(file)).suffix).lower()
    try:
        if suffix in VIDEO_SUFFIXES:
            import av

            opened = str(file) if isinstance(file, Path) else file
            with av.open(opened, options={"protocol_whitelist": "file", "format_whitelist": _DEMUXERS}) as container:
                return container.metadata.get("comment") == MARK
        with open_image(file) as image:
            marks = (image.info.get("Software"), image.info.get("comment"), getattr(image, "tag_v2", {}).get(_SOFTWARE))
            return MARK in marks or MARK.encode() in marks
    except Exception:  # no image or video, or a damaged one: no result
        return False


def _lies_in(path: Path, out: Path | Store) -> bool:
    return isinstance(out, Path) and path.resolve().is_relative_to(out.resolve())


def _media(folder: Path, out: Path | Store) -> Iterator[tuple[Path, bool]]:
    """Images and videos under `folder`, sorted, and whether each is a result; hidden ones left out."""
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
    """Images and videos in a store, sorted; hidden ones and those under `out` left out."""
    if store.is_file:
        name = store.url.rpartition("/")[2]
        return [_stored_input(store.parent(), name)]
    out_url = f"{out.url}/" if isinstance(out, Store) else None
    apart = out_url is not None and not f"{store.url}/".startswith(out_url)
    found = []
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
        found.append(_stored_input(store, name))
    return found


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
    """A name for each input's results, without suffix; all differ, also where case does not count."""

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
    """The name of the folder that holds it."""
    return item.path.resolve().parent.name if item.store is None else item.shown.split("/")[-2]


def _parent(job: Job) -> None:
    for path in (job.masks, job.overlay):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)


def _save(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    part = path.with_name(path.name + ".part")
    try:
        image.save(part, kind, **options)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
