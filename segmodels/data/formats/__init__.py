"""The layouts that a dataset may come in, one module each, all written out as the dataset folder.

A module has `LOOKS_FOR` (what tells the layout, in words), `detect(root)` and `convert(root, out, ...)`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from segmodels.data.folder import DatasetError
from segmodels.data.formats import camvid, folder, kitti_road, passthrough
from segmodels.data.formats.common import Splitting
from segmodels.progress import Heartbeat

# In the order in which they are tried: the more particular first.
FORMATS: dict[str, ModuleType] = {
    "dataset": passthrough,
    "camvid": camvid,
    "kitti_road": kitti_road,
    "folder": folder,
}
DEPTH = 3


def convert(
    root: Path | str,
    format: str = "auto",  # noqa: A002
    out: Path | str = "data",
    *,
    name: str | None = None,
    source: Mapping[str, Any] | None = None,
    splitting: Splitting | None = None,
) -> str:
    """Find the layout in `root`, or up to three folders below, and write it as the dataset folder `out`.

    Args:
        root: The folder to look in, e.g. an unpacked archive.
        format: A key of `FORMATS`, or `auto` for the first that fits.
        out: The dataset folder; replaced when all went well, untouched otherwise.
        name: Name of the dataset where its format has none; by default that of `root`.
        source: `url` or `path`, `sha256` and `licence`, as they go into `dataset.json`.
        splitting: How to deal the splits that the data does not have.

    Returns:
        The format that was found.

    Raises:
        DatasetError: No layout fits, or the data is not what its layout says.
    """
    root = Path(root)
    key, place = find(root, format)
    with Heartbeat(lambda: f"{place}: reading it as {key}", sys.stderr):
        FORMATS[key].convert(
            place,
            Path(out),
            name=name or root.resolve().name,
            source=source or {"path": str(root)},
            splitting=splitting or Splitting(),
        )
    return key


def find(root: Path | str, format: str = "auto") -> tuple[str, Path]:  # noqa: A002
    """Return the layout in `root`, or up to three folders below, and the folder it lies in; names of files tell it.

    Raises:
        DatasetError: No layout fits.
    """
    root = Path(root)
    if format != "auto" and format not in FORMATS:
        raise DatasetError(f"format {format!r} is unknown; known are auto, {', '.join(FORMATS)}")
    wanted = FORMATS if format == "auto" else {format: FORMATS[format]}
    for place in _places(root):
        for key, module in wanted.items():
            if module.detect(place):
                return key, place
    raise DatasetError(_nothing_found(root, wanted))


def _places(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """`root` and the folders below it, the nearer first."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [d for p in level for d in sorted(p.iterdir()) if d.is_dir() and not d.name.startswith((".", "__"))]


def _nothing_found(root: Path, wanted: Mapping[str, ModuleType]) -> str:
    looked = "; ".join(f"{key}: {module.LOOKS_FOR}" for key, module in wanted.items())
    there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    holds = ", ".join(there[:8]) + (", …" if len(there) > 8 else "") if there else "nothing"
    return f"{root}: no known layout in it or below; looked for {looked}; it holds {holds}"


__all__ = ["FORMATS", "Splitting", "convert", "find"]
