"""ISPRS 2D semantic labelling in mmsegmentation's folders with ids from 0 on; see `isprs`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from segmodels.data.formats import isprs

LAYOUT = replace(
    isprs.LAYOUT,
    key="isprs_from_0",
    title="ISPRS Potsdam and Vaihingen, ids 0..5",
    looks_for="img_dir/ beside ann_dir/ with names of tiles",
    read=partial(isprs.reading, start=0),
    by_name=True,
)
