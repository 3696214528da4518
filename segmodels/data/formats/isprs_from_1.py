"""ISPRS 2D semantic labelling in mmsegmentation's folders with ids from 1 on; see `isprs`."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from segmodels.data.formats import isprs

LAYOUT = replace(
    isprs.LAYOUT,
    key="isprs_from_1",
    title="ISPRS Potsdam and Vaihingen, ids 1..6",
    looks_for="img_dir/ beside ann_dir/ with names of tiles",
    read=partial(isprs.reading, start=1),
    by_name=True,
)
