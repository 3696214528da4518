"""GeoTIFFs of any size, labelled by polygons or by rasters, cut into tiles that keep their place on the earth.

    images/field.tif   labels/field.geojson            or .gpkg, .shp: an attribute has the class
    images/*.tif       labels.gpkg                     one file for all images
    images/field.tif   labels/field.tif                class ids on the same grid, with classes.txt
    AOI_2_Vegas/RGB-PanSharpen/RGB-PanSharpen_AOI_2_Vegas_img1.tif
                       geojson/buildings/buildings_AOI_2_Vegas_img1.geojson    SpaceNet 2 (Van Etten et al., 2018);
    3band/ beside geojson/, PS-RGB/ beside geojson_buildings/: SpaceNet 1 and 6, with their names

`data.tile` is the side of a tile; without it, images of up to four million pixels stay whole and larger ones are cut
into tiles of 512. Only a tile's pixels are read at a time. What lies in the raster's no-data is void, and a tile of
nothing else is left out. Tiles do not overlap, and are dealt to splits in blocks of four by four, so that few of them
lie beside one of another split; a rest at an edge is a tile of its own, or part of the last one where it is small.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.bands import opened
from segmodels.data.folder import SPLITS, ClassInfo, DatasetError
from segmodels.data.formats import classes as class_files
from segmodels.data.formats import vectors
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading, first, void_of
from segmodels.data.palette import default_palette

LARGE, TILE, BLOCK = 4_000_000, 512, 4
TIFFS = ("tif", "tiff", "TIF", "TIFF")
IMAGES, LABELS = ("images", "image", "img", "rasters"), ("labels", "label", "masks", "annotations", "vectors")
# What a name of SpaceNet has before and after the product's: city, and the image's number or its time and tile.
SPACENET = re.compile(r"(AOI_\d+_[A-Za-z]+)_(?:[A-Za-z-]+_)?(img\d+|\d+_\d+_tile_\d+)$")


@dataclass(frozen=True)
class Tile:
    """A window of a raster, in pixels."""

    raster: Path
    top: int
    left: int
    height: int
    width: int


def _detect(root: Path) -> Fit | None:
    pair = next(iter(_pairs(root)), None)
    if pair is None:
        return None
    image, label = pair
    if label.suffix.lower() in (".tif", ".tiff"):
        try:
            with opened(image, str(image)) as source:
                if source.width * source.height <= LARGE:
                    return None
        except DatasetError:
            return None
    return Fit(f"{label.relative_to(root).as_posix()} beside {image.relative_to(root).as_posix()}")


def _read(root: Path, job: Job) -> Reading:
    pairs = list(_pairs(root))
    drawn = any(label.suffix.lower() in vectors.SUFFIXES for _, label in pairs)
    listing = class_files.find(root)
    if drawn:
        attribute = job.choices.attribute
        files = sorted({label for _, label in pairs})
        named = [one.name for one in class_files.read(listing) if not one.is_void] if listing is not None else sorted(
            {_class(label, name) for label in files for name in vectors.classes_of(label, attribute)}
        )  # fmt: skip
        classes, undrawn = job.undrawn(infos(named))
        index = {info.name: place for place, info in enumerate(classes)}
        return Reading(classes, _tiles(root, pairs, job, lambda tile, label: _drawn(tile, label, job, index, undrawn,
                                                                                   void_of(classes))))  # fmt: skip
    if listing is None:
        raise DatasetError(f"{root}: says nowhere what its ids mean; write classes.txt, a name a line, beside images/")
    named_classes = class_files.read(listing)
    table = {one.value if one.value is not None else i: one for i, one in enumerate(named_classes)}
    kept = {value: one for value, one in table.items() if not one.is_void}
    colors = default_palette(len(kept))
    infos_ = tuple(ClassInfo(one.name, one.color or color) for one, color in zip(kept.values(), colors, strict=True))
    ids = dict.fromkeys(table.keys() - kept.keys(), 255) | {value: i for i, value in enumerate(kept)} | {255: 255}
    return Reading(infos_, _tiles(root, pairs, job, lambda tile, label: _window(tile, label, ids)))


def _pairs(root: Path) -> Iterator[tuple[Path, Path]]:
    """Yield each image with its labels, sorted."""
    photos = (p for folder in ("*RGB", "RGB-*", "3band") for p in root.glob(f"**/{folder}/*AOI_*.*"))
    drawings: dict[Path, dict[tuple[str, ...], Path]] = {}
    for image in sorted({p for p in photos if p.suffix[1:] in TIFFS and SPACENET.search(p.stem)}):
        near = drawings.setdefault(image.parent.parent, _drawings(image.parent.parent))
        if (label := near.get(_spacenet(image))) is not None:
            yield image, label
    for base in [root, *(root / split for split in SPLITS)]:
        images = next((base / name for name in IMAGES if any(first(base, f"{name}/*.{s}") for s in TIFFS)), None)
        if images is None:
            continue
        single = next((p for name in LABELS for s in vectors.SUFFIXES if (p := base / f"{name}{s}").is_file()), None)
        for image in sorted(p for s in TIFFS for p in images.glob(f"*.{s}")):
            partner = single or _partner(base, image)
            if partner is not None:
                yield image, partner


def _drawings(folder: Path) -> dict[tuple[str, ...], Path]:
    """Return SpaceNet's polygons by what their names share with images'."""
    return {_spacenet(p): p for p in sorted(folder.glob("geojson*/**/*.geojson")) if "road" not in p.parent.name}


def _spacenet(path: Path) -> tuple[str, ...]:
    match = SPACENET.search(path.stem)
    return match.groups() if match else (path.stem,)


def _partner(base: Path, image: Path) -> Path | None:
    for name in LABELS:
        for suffix in (*vectors.SUFFIXES, ".tif", ".tiff"):
            label = base / name / f"{image.stem}{suffix}"
            if label.is_file() and (suffix != ".json" or b'"FeatureCollection"' in label.read_bytes()[:4096]):
                return label
    return None


def _class(label: Path, name: str) -> str:
    """Return a class's name; a layer that is called as its file names none."""
    return _layer(label) if name == label.stem else name


def _layer(label: Path) -> str:
    return "object" if label.parent.name in LABELS else label.parent.name.removeprefix("geojson").strip("_") or "object"


def _tiles(root: Path, pairs: list[tuple[Path, Path]], job: Job, look: Any) -> Iterator[Raw]:
    side, empty = job.choices.tile, []
    for image, label in pairs:
        split = next((s for s in SPLITS if s in image.relative_to(root).parts), None)
        with opened(image, str(image)) as source:
            height, width = source.height, source.width
            step = side or (TILE if height * width > LARGE else max(height, width))
            if side is None and step == TILE:
                job.noted(f"{image}: {width}x{height} pixels, cut into tiles of {TILE}; data.tile sets another side")
            _check_grid(label, (height, width))
            whole = step >= max(height, width)
            for row, (top, bottom) in enumerate(_cuts(height, step)):
                for column, (left, right) in enumerate(_cuts(width, step)):
                    tile = Tile(image, top, left, bottom - top, right - left)
                    name = image.stem if whole else f"{image.stem}_{row:04}_{column:04}"
                    if not _held(source, tile).any():
                        empty.append(name)
                        continue
                    group = "" if whole else f"{image.stem}/{row // BLOCK}/{column // BLOCK}"
                    content = None if whole else partial(_content, tile)
                    file = image if whole else image.with_name(f"{name}.tif")
                    yield Raw(name, file, partial(look, tile, label), split, group, content=content)
    job.left_out(empty, "tiles without any data")


def _cuts(length: int, step: int) -> list[tuple[int, int]]:
    """Return where the tiles along a side begin and end; a rest below a quarter of a tile belongs to the last one."""
    starts = list(range(0, length, step))
    if len(starts) > 1 and length - starts[-1] < step / 4:
        starts.pop()
    return list(itertools.pairwise([*starts, length]))


def _check_grid(label: Path, size: tuple[int, int]) -> None:
    if label.suffix.lower() in (".tif", ".tiff"):
        with opened(label, str(label)) as source:
            if (source.height, source.width) != size:
                raise DatasetError(
                    f"{label}: is {source.width}x{source.height}, its image {size[1]}x{size[0]}; bring it to the "
                    "image's grid, for example with gdalwarp"
                )


def _pixels(tile: Tile) -> Any:
    from rasterio.windows import Window

    return Window(tile.left, tile.top, tile.width, tile.height)


def _held(source: Any, tile: Tile) -> np.ndarray:
    """Return where a tile has data, bool `[H, W]`."""
    held: np.ndarray = source.dataset_mask(window=_pixels(tile)) > 0
    return held


def _content(tile: Tile) -> bytes:
    """Return a tile as a GeoTIFF in its place."""
    import rasterio

    with opened(tile.raster, str(tile.raster)) as source:
        window = _pixels(tile)
        values = source.read(window=window)
        kind: dict[str, Any] = {
            "driver": "GTiff", "height": tile.height, "width": tile.width, "count": source.count,
            "dtype": source.dtypes[0], "crs": source.crs, "transform": source.window_transform(window),
            "nodata": source.nodata, "compress": "deflate",
        }  # fmt: skip
        if source.dtypes[0] == "uint8" and source.count in (3, 4):
            kind["photometric"] = "rgb" if source.colorinterp[0].name == "red" or source.count == 3 else "minisblack"
        with rasterio.MemoryFile() as file:
            with file.open(**kind) as made:
                made.write(values)
                if source.count == 1 and source.colorinterp[0].name == "palette":
                    made.write_colormap(1, source.colormap(1))
                if source.count != 3:
                    made.colorinterp = source.colorinterp
            return bytes(file.getbuffer())


def _drawn(tile: Tile, label: Path, job: Job, index: Mapping[str, int], undrawn: int, void: int) -> np.ndarray:
    with opened(tile.raster, str(tile.raster)) as source:
        crs, held = source.crs.to_wkt() if source.crs else None, _held(source, tile)
        transform = source.window_transform(_pixels(tile))
    draw = vectors.drawing(label, job.choices.attribute, crs)
    named = {name: index[_class(label, name)] for name in set(draw.names) if _class(label, name) in index}
    unknown = sorted(set(draw.names) - named.keys())
    if unknown:
        raise DatasetError(f"{label}: class {unknown[0]!r} is not in the file of classes; add it there")
    ids = vectors.rasterized(draw, lambda: transform, (tile.height, tile.width), named, undrawn)
    return np.where(held, ids, void).astype(ids.dtype)


def _window(tile: Tile, label: Path, ids: Mapping[int, int]) -> np.ndarray:
    with opened(label, str(label)) as truth, opened(tile.raster, str(tile.raster)) as source:
        values = truth.read(1, window=_pixels(tile))
        held = _held(source, tile)
    if values.dtype.kind not in "ui":
        raise DatasetError(f"{label}: holds {values.dtype}; labels are whole numbers")
    present = np.unique(values)
    table = {int(value): ids.get(int(value)) for value in present}
    unknown = [value for value, place in table.items() if place is None]
    if unknown:
        y, x = (int(v[0]) for v in np.nonzero(values == unknown[0]))
        raise DatasetError(
            f"{label}: id {unknown[0]} at column {tile.left + x}, row {tile.top + y} is no class of classes.txt; add "
            "it there, as void where it is none"
        )
    mapped = np.array([table[int(value)] for value in present], np.uint8)[np.searchsorted(present, values)]
    return np.where(held, mapped, 255).astype(np.uint8)


LAYOUT = Layout(
    "georaster",
    "GeoTIFFs with polygons or large rasters of labels (SpaceNet)",
    home="",
    licence="",
    looks_for="labels/*.{geojson,gpkg,shp} or labels.gpkg beside images/*.tif; or labels/*.tif of large images",
    read=_read,
    detect=_detect,
    over=("folder",),
    splits="folders called train, val, test; otherwise blocks of tiles are dealt",
    classes="of classes.txt, otherwise those of the polygons",
)
