"""Mapillary Vistas, the classes of version 2.0 where 1.2 is there, too; see `vistas`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from segmodels.data.formats import vistas

VERSION = ("v2.0",)

LAYOUT = replace(
    vistas.LAYOUT,
    key="vistas_v2",
    title="Mapillary Vistas 2.0",
    looks_for="{training,validation}/v2.0/labels/ beside images/",
    read=partial(vistas.reading, versions=VERSION),
    detect=partial(vistas.detect, versions=VERSION),
    classes="123",
    by_name=True,
)
