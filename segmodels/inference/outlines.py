"""A raster of predicted classes as polygons, for a map: GeoPackage, GeoJSON or shapefile.

Regions of one class, connected over sides, are polygons along the edges of their pixels (GDAL's polygonize), in the
raster's reference system; GeoJSON is in degrees, as RFC 7946 wants it.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.bands import opened
from segmodels.data.folder import DatasetError
from segmodels.data.formats.vectors import reprojected
from segmodels.errors import brief
from segmodels.files import replaced

CLASSES_TAG = "SEGMODELS_CLASSES"
DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON", ".shp": "ESRI Shapefile", ".fgb": "FlatGeobuf"}


def outlines(raster: Path, out: Path, *, classes: Sequence[str] = (), smallest: float = 0.0) -> int:
    """Write the regions of a raster of class ids, and return how many they are.

    Each has `id`, `class` and `area`, in the units of the reference system, squared; pixels where it has none.

    Args:
        raster: What `segmodels predict` wrote: class ids of 8 bits; its no-data has no polygon.
        out: A .gpkg, .geojson, .shp or .fgb file.
        classes: Names of the classes that are wanted; all by default.
        smallest: Regions of a smaller area are left out.

    Raises:
        DatasetError: The raster is none of classes, a class is unknown, or a file cannot be read or written.
    """
    driver = DRIVERS.get(out.suffix.lower())
    if driver is None:
        raise DatasetError(f"{out}: its ending says no format; give {', '.join(DRIVERS)}")
    try:
        import pyogrio
        import shapely
        from rasterio.features import shapes
    except ImportError:
        raise DatasetError(f"{out}: polygons need pyogrio and rasterio; `pip install segmodels[raster]`") from None
    import rasterio

    with opened(raster, str(raster)) as source:
        if source.count != 1 or source.dtypes[0] != "uint8":
            raise DatasetError(f"{raster}: holds {source.count} bands of {source.dtypes[0]}, no class ids of 8 bits")
        names = json.loads(source.tags().get(CLASSES_TAG, "[]"))
        wanted = _ids(raster, names, classes)
        found: list[tuple[int, Any]] = []
        for geometry, value in shapes(rasterio.band(source, 1), mask=None, connectivity=4, transform=source.transform):
            if int(value) != source.nodata and (wanted is None or int(value) in wanted):
                shape = shapely.geometry.shape(geometry)
                if shape.area >= smallest:
                    found.append((int(value), shape))
        crs = source.crs.to_wkt() if source.crs else None
    ids = np.array([value for value, _ in found], np.int32)
    held = np.array([shape for _, shape in found], object)
    named = np.array([names[value] if value < len(names) else str(value) for value in ids], object)
    areas = shapely.area(held).astype(np.float64)
    if driver == "GeoJSON" and crs is not None:
        held, crs = reprojected(held, crs, "EPSG:4326"), "EPSG:4326"
    options: dict[str, Any] = {"layer": out.stem} if driver == "GPKG" else {}
    with replaced(out) as part, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a file without a reference system
        written = part.with_name(part.name + out.suffix)  # drivers look at endings
        try:
            pyogrio.raw.write(
                written, shapely.to_wkb(held), [ids, named, areas], ["id", "class", "area"],
                geometry_type="Polygon", crs=crs, driver=driver, **options,
            )  # fmt: skip
        except Exception as error:  # whatever GDAL says of it
            written.unlink(missing_ok=True)
            raise DatasetError(f"{out}: cannot be written ({brief(error)})") from None
        for beside in written.parent.glob(f"{written.stem}.*"):
            if beside != written and beside.suffix in (".dbf", ".shx", ".prj", ".cpg"):  # of a shapefile
                beside.replace(out.with_suffix(beside.suffix))
        written.replace(part)
    return len(found)


def _ids(raster: Path, names: Sequence[str], classes: Sequence[str]) -> set[int] | None:
    if not classes:
        return None
    unknown = [name for name in classes if name not in names]
    if unknown:
        have = ", ".join(names) or "none: it was not written by `segmodels predict`"
        raise DatasetError(f"{raster}: has no class {unknown[0]!r}; it has {have}")
    return {names.index(name) for name in classes}
