"""PASCAL Context with all of its 459 classes, whose names are in `labels.txt`; the files: `pascal_context`.

Labels of 8 bits hold at most 255 classes: `data.classes` says which of them become one, or are left out.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats import pascal_context
from segmodels.data.formats.coco_json import infos
from segmodels.data.formats.layout import Fit, Job, Reading, Table, fits
from segmodels.data.formats.truth import listed

MARKS, NAMES = ("trainval/20[01][0-9]_*.mat",), "labels.txt"


def _detect(root: Path) -> Fit | None:
    return fits(root, MARKS, (NAMES,))


def _read(root: Path, job: Job) -> Reading:
    lines = [re.fullmatch(r"(\d+)\s*:\s*(.+)", line) for line in listed(root / NAMES)]
    named = {int(match[1]): match[2] for match in lines if match}
    if not named or not all(lines):
        raise DatasetError(f"{root / NAMES}: is not a list of `1: accordion` a line; restore it from trainval.tar.gz")
    table = Table(tuple(zip(named, infos(list(named.values())), strict=True)))
    paths = sorted((root / "trainval").glob("*.mat"))
    labels = {path.stem: pascal_context.map_of(path, table.ids(0)) for path in paths}
    return Reading(table.classes, pascal_context.samples(root, labels, job), "pascal_context_459")


LAYOUT = replace(
    pascal_context.LAYOUT,
    key="pascal_context_459",
    title="PASCAL Context, 459 classes",
    looks_for="trainval/*.mat beside labels.txt and JPEGImages/ of VOC 2010",
    read=_read,
    detect=_detect,
    classes="459",
    by_name=True,
)
