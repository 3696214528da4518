"""Predictions for georeferenced or very large TIFFs, window by window, so that memory stays bounded.

A window reads more than it writes: the margin around it, an eighth of its side or more, gives the network context and
is thrown away, so that no seam is seen. The result has the source's size, reference system and transform; where the
source has no data it has the task's void, 255 for class ids.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.images import TooManyPixelsError, open_image
from segmodels.files import replaced
from segmodels.tasks.base import Task
from segmodels.tasks.pictures import MARK

WINDOW = (1024, 1024)
SUFFIXES = frozenset({".tif", ".tiff"})
# Pillow decodes whole images; from here on that takes too much memory.
LARGE = 1 << 25
# Deflate packs at most 1032 equal bytes into one, and a pixel has at least one.
MOST_PIXELS = 1032
_BLOCK = 256
_CACHE = 64  # MB of decoded blocks
# ModelPixelScale, ModelTiepoint, ModelTransformation, GeoKeyDirectory.
_GEO_TAGS = (33550, 33922, 34264, 34735)


@dataclass(frozen=True)
class Span:
    """One side of a window: `start:stop` is read, `first:last` of it is written."""

    start: int
    stop: int
    first: int
    last: int


def is_raster(file: Path | BinaryIO) -> bool:
    """Tell whether a TIFF has a place on the earth, or is too large to be decoded whole."""
    try:
        with open_image(file, formats=("TIFF",)) as image:
            tags = getattr(image, "tag_v2", {})
            return image.width * image.height > LARGE or any(tag in tags for tag in _GEO_TAGS)
    except TooManyPixelsError:
        return True
    except Exception:  # whatever Pillow says of a damaged header; reading it tells what is wrong
        return False


def predict_raster(
    path: Path,
    predict: Callable[[np.ndarray], np.ndarray],
    task: Task,
    palette: Sequence[Sequence[int]],
    *,
    masks: Path | None,
    overlays: Path | None,
    window: tuple[int, int] = WINDOW,
    alpha: float = 0.5,
    on_window: Callable[[], None] = lambda: None,
) -> None:
    """Predict a raster; results appear when they are whole.

    Args:
        path: A TIFF with 8-bit bands: red, green, blue, or one that is grey or has a palette; an alpha is a mask.
        predict: What the task predicts of an RGB image, uint8 `[H, W, 3]`.
        task: The task.
        palette: A colour for each of its parts.
        masks: The TIFF of predictions to write, void where the source has no data; None writes none.
        overlays: The TIFF of the classes' colours over the image to write; None writes none.
        window: (height, width) of what the network sees.
        alpha: How much of the colours is seen in the overlay, 0..1.
        on_window: Called after each window.

    Raises:
        DatasetError: rasterio is not installed, or the file cannot be read or has other bands.
    """
    try:
        import rasterio
        from rasterio.enums import MaskFlags
        from rasterio.errors import RasterioError
        from rasterio.windows import Window
    except ImportError:
        raise DatasetError(
            f"{path}: is a raster, which needs rasterio; `pip install rasterio`, or make it a plain image"
        ) from None
    try:
        with contextlib.ExitStack() as stack:
            # Entered first: files are closed before they are renamed.
            parts = [stack.enter_context(replaced(path)) if path is not None else None for path in (masks, overlays)]
            stack.enter_context(rasterio.Env(GDAL_CACHEMAX=_CACHE))
            # No other driver: some read further files, or addresses, that a file names.
            source = stack.enter_context(rasterio.open(path, driver="GTiff"))
            everywhere = all(MaskFlags.all_valid in flags for flags in source.mask_flag_enums)
            held_so_far = _check_held(path, source, source.height * source.width if everywhere else 0)
            read = _reader(source, path)
            kind = task.raster()
            colors = palette if kind["count"] == 1 and kind["dtype"] == "uint8" else None
            ids = None
            if parts[0] is not None:
                ids = stack.enter_context(_created(source, parts[0], {**kind, "compress": "deflate"}, colors))
            shown = {"dtype": "uint8", "count": 3, "compress": "jpeg", "photometric": "ycbcr"}
            film = stack.enter_context(_created(source, parts[1], shown, None)) if parts[1] is not None else None
            for rows in spans(source.height, window[0]):
                for columns in spans(source.width, window[1]):
                    here = Window(columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
                    image, held = read(here)
                    shape = held.shape if kind["count"] == 1 else (*held.shape, kind["count"])
                    value = np.full(shape, kind["nodata"], kind["dtype"])
                    kept = slice(rows.first, rows.last), slice(columns.first, columns.last)
                    if held.any():
                        if not everywhere:
                            held_so_far = _check_held(path, source, held_so_far + int(held[kept].sum()))
                        value[held] = predict(image)[held]
                    there = Window(
                        columns.start + columns.first,
                        rows.start + rows.first,
                        columns.last - columns.first,
                        rows.last - rows.first,
                    )
                    if ids is not None:
                        if kind["count"] == 1:
                            ids.write(value[kept], 1, window=there)
                        else:
                            ids.write(value[kept].transpose(2, 0, 1), window=there)
                    if film is not None:
                        mixed = task.overlay(image[kept], value[kept], palette, alpha)
                        film.write(mixed.transpose(2, 0, 1), window=there)
                    on_window()
    except RasterioError as error:
        raise DatasetError(f"{path}: cannot be read as a raster ({str(error).splitlines()[0]}); replace it") from None


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


def spans(length: int, window: int) -> Iterator[Span]:
    """Yield how a side is divided: every pixel is written once, and none near the end of what is read inside the
    raster.
    """
    window = min(window, length)
    core = max(1, window * 3 // 4)
    if core >= _BLOCK:
        # Blocks of the file are written once each: a compressed one that is written again leaves its old bytes behind.
        core -= core % _BLOCK
    if window == length:
        core = length
    for first in range(0, length, core):
        last = min(first + core, length)
        start = min(max(0, first - (window - core) // 2), length - window)
        yield Span(start, start + window, first - start, last - start)


def _reader(source: Any, path: Path) -> Callable[[Any], tuple[np.ndarray, np.ndarray]]:
    """Return what reads a window as RGB, uint8 `[H, W, 3]`, and where it has data, bool `[H, W]`."""
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

    def read(window: Any) -> tuple[np.ndarray, np.ndarray]:
        held = source.dataset_mask(window=window) > 0
        if colors is not None:
            return colors[source.read(1, window=window)], held
        return np.ascontiguousarray(source.read(bands, window=window).transpose(1, 2, 0)), held

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
