"""`segmodels polygons`: a raster of predicted classes as polygons."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import CommandError, app


@app.command()
def polygons(
    raster: Annotated[Path, typer.Argument(help="A raster of classes that `segmodels predict` wrote.")],
    out: Annotated[Path, typer.Option(help="The .gpkg, .geojson, .shp or .fgb file to write.")],
    only: Annotated[
        list[str] | None, typer.Option("--class", help="A class that is wanted; as often as wanted.")
    ] = None,
    smallest: Annotated[
        float, typer.Option(min=0, help="Regions of a smaller area are left out; in units of the map, squared.")
    ] = 0.0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a file that exists.")] = False,
) -> None:
    """Write the regions of a raster of classes as polygons, for a map."""
    from segmodels.inference.outlines import outlines

    if not raster.is_file():
        raise CommandError(f"{raster}: no such file")
    if out.exists() and not overwrite:
        raise CommandError(f"{out}: exists; choose another --out, or say --overwrite")
    count = outlines(raster, out, classes=tuple(only or ()), smallest=smallest)
    print(f"{raster}: {count} polygons written to {out}")
