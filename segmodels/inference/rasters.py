"""Predictions for georeferenced or very large TIFFs, window by window, so that memory stays bounded.

Windows are blended where they overlap, so that no seam is seen, and a run that was stopped goes on (`mosaic`). The
result is a cloud-optimised GeoTIFF, tiled and with overviews, of the source's size, reference system and transform;
where the source has no data it has the task's void, 255 for class ids.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from segmodels.data.bands import PLAIN, Bands, opened, view
from segmodels.data.folder import DatasetError
from segmodels.data.images import TooManyPixelsError, open_image
from segmodels.files import replaced
from segmodels.inference.mosaic import Mosaic, Side
from segmodels.inference.outlines import CLASSES_TAG
from segmodels.tasks.base import Task
from segmodels.tasks.pictures import MARK

if TYPE_CHECKING:
    from torch import Tensor

WINDOW = (1024, 1024)
SUFFIXES = frozenset({".tif", ".tiff"})
# Pillow decodes whole images; from here on that takes too much memory.
LARGE = 1 << 25
# Deflate packs at most 1032 equal bytes into one, and a pixel has at least one.
MOST_PIXELS = 1032
_BLOCK = 256
_CHUNK = 32 * _BLOCK
_CLOUD = {"blocksize": _BLOCK, "bigtiff": "if_safer", "sparse_ok": True, "num_threads": "all_cpus"}
_CACHE = 64  # MB of decoded blocks
# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory.
_GEO_TAGS = (33550, 33922, 34264, 34735)


def is_raster(file: Path | BinaryIO) -> bool:
    """Tell whether a TIFF has a place on the earth, or is too large to be decoded whole."""
    try:
        with open_image(file, formats=("TIFF",)) as image:
            tags = getattr(image, "tag_v2", {})
            return image.width * image.height > LARGE or any(tag in tags for tag in _GEO_TAGS)
    except TooManyPixelsError:
        return True
    except Exception:  # bands that Pillow does not know, or a damaged header; reading it tells what is wrong
        return isinstance(file, Path) and file.suffix.lower() in SUFFIXES and _placed(file)


def _placed(path: Path) -> bool:
    """Tell as `is_raster` does of a TIFF whose bands only GDAL knows."""
    try:
        with opened(path, str(path)) as source:
            return source.crs is not None or bool(source.gcps[0]) or source.width * source.height > LARGE
    except DatasetError:
        return False


def predict_raster(
    path: Path,
    maps: Callable[[np.ndarray], Tensor],
    task: Task,
    palette: Sequence[Sequence[int]],
    *,
    masks: Path | None,
    overlays: Path | None,
    bands: Bands = PLAIN,
    window: tuple[int, int] = WINDOW,
    alpha: float = 0.5,
    model: str = "",
    names: Sequence[str] = (),
    on_window: Callable[[], None] = lambda: None,
) -> None:
    """Predict a raster; results appear when they are whole.

    What a run that is stopped has computed is kept in a hidden folder beside the result, and the next one goes on.

    Args:
        path: A TIFF with the bands that the model takes, by default of 8 bits: red, green, blue, or one that is grey
            or has a palette; an alpha is a mask.
        maps: Gives the task's maps, float32 `[C, H, W]`, of an image as `Bands.read` gives it: RGB, uint8 `[H, W, 3]`.
        task: The task.
        palette: A colour for each of its parts.
        masks: The TIFF of predictions to write, void where the source has no data; None writes none.
        overlays: The TIFF of the classes' colours over the image to write; None writes none.
        bands: Which bands are the network's channels.
        window: (height, width) of what the network sees.
        alpha: How much of the colours is seen in the overlay, 0..1.
        model: What tells this model and its settings from others: what others computed is not gone on with.
        names: Of the parts; they go into the file, so that `segmodels polygons` can tell them.
        on_window: Called after each window.

    Raises:
        DatasetError: rasterio is not installed, or the file cannot be read or has other bands.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        raise DatasetError(
            f"{path}: is a raster, which needs rasterio; `pip install rasterio`, or make it a plain image"
        ) from None
    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    results = [place for place in (masks, overlays) if place is not None]
    work = results[0].with_name(f".{results[0].name}.windows")
    try:
        # No other driver: some read further files, or addresses, that a file names.
        with rasterio.Env(GDAL_CACHEMAX=_CACHE), rasterio.open(path, driver="GTiff") as source:
            told = path.stat()
            job = {"model": model, "bands": bands.as_json(), "alpha": alpha, "film": overlays is not None}
            job |= {"source": [str(path.resolve()), told.st_size, told.st_mtime_ns]}
            mosaic = Mosaic(Side(source.height, window[0]), Side(source.width, window[1]), work, job)
            mosaic.begin()
            _predict_rows(source, path, mosaic, maps, task, palette, bands, alpha, overlays is not None, on_window)
            with contextlib.ExitStack() as stack:
                places = [stack.enter_context(replaced(place)) if place is not None else None
                          for place in (masks, overlays)]  # fmt: skip
                _gather(source, mosaic, task, palette, names, *places)
    except (RasterioError, DatasetError) as error:
        shutil.rmtree(work, ignore_errors=True)
        if isinstance(error, DatasetError):
            raise
        raise DatasetError(f"{path}: cannot be read as a raster ({str(error).splitlines()[0]}); replace it") from None
    shutil.rmtree(work, ignore_errors=True)


def _predict_rows(
    source: Any,
    path: Path,
    mosaic: Mosaic,
    maps: Callable[[np.ndarray], Tensor],
    task: Task,
    palette: Sequence[Sequence[int]],
    bands: Bands,
    alpha: float,
    film: bool,
    on_window: Callable[[], None],
) -> None:
    """Write each row of windows to its file: the values, and behind them the picture where it is wanted."""
    import rasterio
    import torch
    from rasterio.enums import MaskFlags
    from rasterio.windows import Window

    everywhere = all(MaskFlags.all_valid in flags for flags in source.mask_flag_enums)
    held_so_far = _check_held(path, source, source.height * source.width if everywhere else 0)
    read = _reader(source, path) if bands.plain else _band_reader(source, path, bands)
    kind = task.raster()

    def look(place: tuple[int, int, int, int]) -> np.ndarray | None:
        top, left, bottom, right = place
        window = Window(left, top, right - left, bottom - top)
        return maps(read(window)).float().cpu().numpy() if _held(source, window).any() else None

    def keep(row: int, blocks: Iterator[tuple[tuple[int, int, int, int], np.ndarray | None]], file: Path) -> None:
        nonlocal held_so_far
        first, last = mosaic.extent(row)
        options = {"driver": "GTiff", "tiled": True, "blockxsize": _BLOCK, "blockysize": _BLOCK, "bigtiff": "if_safer"}
        options |= {"sparse_ok": True}
        size = {"height": last - first, "width": source.width, "compress": "deflate", "zlevel": 1}
        with contextlib.ExitStack() as stack:
            values = stack.enter_context(rasterio.open(file, "w", **kind, **size, **options))
            picture = file.with_name(_film(mosaic.file(row)).name)
            shown = stack.enter_context(rasterio.open(picture, "w", dtype="uint8", count=3, **size, **options)) \
                if film else None  # fmt: skip
            for (top, left, bottom, right), blended in blocks:
                window = Window(left, top, right - left, bottom - top)
                held = _held(source, window)
                if not held.any():
                    continue  # what is not written is no data
                shape = held.shape if kind["count"] == 1 else (*held.shape, kind["count"])
                value = np.full(shape, kind["nodata"], kind["dtype"])
                if blended is not None:
                    if not everywhere:
                        held_so_far = _check_held(path, source, held_so_far + int(held.sum()))
                    decided, _ = task.decide(torch.from_numpy(np.ascontiguousarray(blended))[None])
                    value[held] = decided[0].cpu().numpy()[held]
                there = Window(left, 0, right - left, bottom - top)
                values.write(value[None] if kind["count"] == 1 else value.transpose(2, 0, 1), window=there)
                if shown is not None:
                    shown.write(
                        task.overlay(view(read(window)), value, palette, alpha).transpose(2, 0, 1), window=there
                    )

    mosaic.run(look, keep, on_window)


def _gather(
    source: Any,
    mosaic: Mosaic,
    task: Task,
    palette: Sequence[Sequence[int]],
    names: Sequence[str],
    masks: Path | None,
    overlays: Path | None,
) -> None:
    """Write the rows of windows as cloud-optimised GeoTIFFs in the place of the source."""
    import rasterio.shutil

    kind = task.raster()
    if masks is not None:
        colors = palette if kind["count"] == 1 and kind["dtype"] == "uint8" else None
        whole = _assembled(source, mosaic, mosaic.file, {**kind, "compress": "deflate", "zlevel": 1}, colors)
        with rasterio.open(whole, "r+") as file:
            file.update_tags(**{CLASSES_TAG: json.dumps(list(names))} if names else {})
        nearest = {"overview_resampling": "nearest", "compress": "deflate"}
        rasterio.shutil.copy(whole, masks, driver="COG", **_CLOUD, **nearest)
    if overlays is not None:
        shown = {"dtype": "uint8", "count": 3, "compress": "deflate", "zlevel": 1, "photometric": "rgb"}
        whole = _assembled(source, mosaic, lambda row: _film(mosaic.file(row)), shown, None)
        smooth = {"overview_resampling": "average", "compress": "jpeg"}
        rasterio.shutil.copy(whole, overlays, driver="COG", **_CLOUD, **smooth)


def _film(file: Path) -> Path:
    """Return the file of the picture of a row of windows."""
    return file.with_suffix(".film.tif")


def _assembled(
    source: Any,
    mosaic: Mosaic,
    file: Callable[[int], Path],
    kind: dict[str, Any],
    palette: Sequence[Sequence[int]] | None,
) -> Path:
    """Write the files of rows as one TIFF; each of its blocks is written once."""
    import rasterio
    from rasterio.windows import Window

    out = mosaic.folder / "whole.tif"
    with _created(source, out, kind, palette) as made:
        for top in range(0, source.height, _BLOCK):
            bottom = min(top + _BLOCK, source.height)
            with contextlib.ExitStack() as stack:
                parts = [
                    (stack.enter_context(rasterio.open(file(row), driver="GTiff")), *mosaic.extent(row))
                    for row in mosaic.rows_of(top, bottom)
                ]
                for left in range(0, source.width, _CHUNK):
                    width = min(_CHUNK, source.width - left)
                    block = np.empty((made.count, bottom - top, width), kind["dtype"])
                    for part, first, last in parts:
                        begin, end = max(top, first), min(bottom, last)
                        lines = Window(left, begin - first, width, end - begin)
                        block[:, begin - top : end - top] = part.read(window=lines)
                    if (block != made.nodata if made.nodata is not None else block).any():
                        made.write(block, window=Window(left, top, width, bottom - top))
    return out


def _check_held(path: Path, source: Any, held: int) -> int:
    """Refuse more pixels with data than the file's bytes can hold; give their number back.

    Areas without data, which a sparse file leaves out, do not count: they are not predicted.
    """
    size = path.stat().st_size
    if held > max(LARGE, MOST_PIXELS * size):
        raise DatasetError(
            f"{path}: its header promises {source.width} x {source.height} pixels, but the file has {size} bytes; it "
            "is damaged, or one colour: write it anew, for example with gdal_translate -co COMPRESS=DEFLATE"
        )
    return held


def _held(source: Any, window: Any) -> np.ndarray:
    """Return where a window has data, bool `[H, W]`."""
    held: np.ndarray = source.dataset_mask(window=window) > 0
    return held


def _reader(source: Any, path: Path) -> Callable[[Any], np.ndarray]:
    """Return what reads a window as RGB, uint8 `[H, W, 3]`."""
    from rasterio.enums import ColorInterp

    if set(source.dtypes) != {"uint8"}:
        raise DatasetError(
            f"{path}: has bands of {source.dtypes[0]}; bring them to 8 bits as the training images were, for example "
            "with gdal_translate -ot Byte -scale"
        )
    colors = None
    if source.colorinterp[0] == ColorInterp.palette:
        colors = np.zeros((256, 3), np.uint8)
        for value, color in source.colormap(1).items():
            colors[value] = color[:3]
    bands = [1, 2, 3] if source.count >= 3 else [1, 1, 1]

    def read(window: Any) -> np.ndarray:
        if colors is not None:
            return np.asarray(colors[source.read(1, window=window)])
        return np.ascontiguousarray(source.read(bands, window=window).transpose(1, 2, 0))

    return read


def _band_reader(source: Any, path: Path, bands: Bands) -> Callable[[Any], np.ndarray]:
    """As `_reader`, of the bands that a model takes."""
    numbers = bands.of_file(source, str(path))

    def read(window: Any) -> np.ndarray:
        return bands.scaled(source.read(numbers, window=window).transpose(1, 2, 0), str(path))

    return read


def _created(source: Any, path: Path, kind: dict[str, Any], palette: Sequence[Sequence[int]] | None) -> Any:
    """Return a TIFF in the place of the source, of this kind; with a palette where there is one."""
    import rasterio

    target = rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=source.width,
        height=source.height,
        crs=source.crs,
        transform=source.transform,
        tiled=True,
        blockxsize=_BLOCK,
        blockysize=_BLOCK,
        bigtiff="if_safer",
        **kind,
    )
    target.update_tags(TIFFTAG_SOFTWARE=MARK)
    if palette is not None:
        target.write_colormap(1, {i: tuple(color) for i, color in enumerate(palette)})
    points, system = source.gcps
    if points:
        target.gcps = points, system
    return target
