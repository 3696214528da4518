"""Labels that are vectors: polygons of GeoJSON, GeoPackage or shapefiles, drawn onto the pixels of a raster.

A feature's class is what one of its attributes says; of files without such an attribute, the layer's name. Features
that lie on each other are drawn in the order of the file, the last one on top; a pixel belongs to a polygon that holds
its centre (GDAL's rule). Reference systems that differ are brought to the raster's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.errors import brief

SUFFIXES = (".geojson", ".gpkg", ".shp", ".json", ".fgb", ".kml")
# Attributes that a class is written in, the likeliest first.
ATTRIBUTES = ("class", "class_name", "classname", "label", "category", "landcover", "land_cover", "type", "name")
_reading = threading.Lock()


@dataclass(frozen=True)
class Drawing:
    """The polygons of a file in one reference system.

    Attributes:
        names: The class of each polygon.
        shapes: The polygons, of shapely.
        index: Finds those that touch a box.
    """

    names: tuple[str, ...]
    shapes: Any
    index: Any


@lru_cache(maxsize=64)
def classes_of(path: Path, attribute: str | None) -> tuple[str, ...]:
    """Return the names of the classes that occur in a file.

    Raises:
        DatasetError: It cannot be read, or it is open which attribute has the class.
    """
    return tuple(sorted({name for _, names, _ in _layers(path, attribute) for name in names}))


def drawing(path: Path, attribute: str | None, crs: str | None) -> Drawing:
    """Return the polygons of a file in a raster's reference system, in WKT.

    Raises:
        DatasetError: It cannot be read, or one of the two has no reference system.
    """
    with _reading:  # tiles of one raster come from several threads at once
        return _drawing(path, attribute, crs)


def rasterized(
    draw: Drawing, place: Callable[[], Any], size: tuple[int, int], index: dict[str, int], undrawn: int
) -> np.ndarray:
    """Return the class ids of a window, uint8 or uint16 `[H, W]`.

    Args:
        draw: The polygons.
        place: Gives the window's affine transform.
        size: Its (height, width).
        index: Class -> id; what stands for none is left out.
        undrawn: The id where there is no polygon.
    """
    import shapely
    from rasterio.features import rasterize
    from rasterio.transform import array_bounds

    transform, kind = place(), np.uint8 if max([undrawn, *index.values()]) < 256 else np.uint16
    touched = np.sort(draw.index.query(shapely.box(*array_bounds(*size, transform))))
    shapes = [(draw.shapes[i], index[draw.names[i]]) for i in touched if draw.names[i] in index]
    if not shapes:
        return np.full(size, undrawn, kind)
    drawn: np.ndarray = rasterize(shapes, size, fill=undrawn, transform=transform, dtype=np.dtype(kind).name)
    return drawn


@lru_cache(maxsize=4)
def _drawing(path: Path, attribute: str | None, crs: str | None) -> Drawing:
    import shapely

    names: list[str] = []
    shapes: list[Any] = []
    for system, named, geometries in _layers(path, attribute):
        if (system is None) != (crs is None):
            which = "the vectors have" if system is None else "the raster has"
            raise DatasetError(f"{path}: {which} no reference system, and the other has one; set it with gdal_edit")
        names += named
        shapes += list(_moved(geometries, system, crs))
    kept = [i for i, shape in enumerate(shapes) if shape is not None and not shape.is_empty]
    held = np.array([shapes[i] for i in kept], object)
    return Drawing(tuple(names[i] for i in kept), held, shapely.STRtree(held))


def _moved(geometries: Any, source: str | None, target: str | None) -> Any:
    import shapely

    shapes = shapely.from_wkb(geometries)
    shapes = np.array([None if s is None else shapely.make_valid(s) if not s.is_valid else s for s in shapes], object)
    return shapes if source is None or target is None else reprojected(shapes, source, target)


def reprojected(shapes: Any, source: str, target: str) -> Any:
    """Return shapes of shapely in another reference system; both are named as rasterio takes them."""
    import shapely
    from rasterio.crs import CRS
    from rasterio.warp import transform

    before, after = CRS.from_user_input(source), CRS.from_user_input(target)
    if before == after:
        return shapes

    def move(points: np.ndarray) -> np.ndarray:
        return np.column_stack(transform(before, after, points[:, 0], points[:, 1])[:2])

    return shapely.transform(shapes, move)


def _layers(path: Path, attribute: str | None) -> list[tuple[str | None, list[str], Any]]:
    """Return of each layer its reference system, the class of each feature, and its geometries in WKB."""
    try:
        import pyogrio
    except ImportError:
        raise DatasetError(f"{path}: labels that are vectors need pyogrio; `pip install segmodels[raster]`") from None
    read = []
    try:
        for layer, kind in pyogrio.list_layers(path):
            if kind is None:  # a table without places
                continue
            meta, _, geometries, columns = pyogrio.raw.read(path, layer=layer)
            table = dict(zip(meta["fields"], columns, strict=True))
            key = _attribute(path, table, attribute)
            count = len(geometries)
            named = [str(layer)] * count if key is None else [_text(path, key, value) for value in table[key]]
            read.append((meta["crs"], named, geometries))
    except DatasetError:
        raise
    except Exception as error:  # whatever GDAL says of it
        raise DatasetError(f"{path}: cannot be read as vectors ({brief(error)}); replace it") from None
    return read


def _attribute(path: Path, table: dict[Any, Any], wanted: str | None) -> str | None:
    """Return the attribute that has the class; None where none could."""
    have = ", ".join(map(str, table)) or "none"
    if wanted is not None:
        if wanted not in table:
            raise DatasetError(f"{path}: has no attribute {wanted!r}; it has {have} (data.attribute)")
        return wanted
    held = [str(name) for name in table if str(name).lower() in ATTRIBUTES]
    if len(held) > 1:
        raise DatasetError(f"{path}: its class may be in {' or '.join(held)}; set data.attribute to one of them")
    return held[0] if held else None


def _text(path: Path, key: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        raise DatasetError(f"{path}: a feature has no {key}; fill it in, or set data.attribute to another one")
    return str(int(value)) if isinstance(value, float) and value == int(value) else str(value)
