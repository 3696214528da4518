"""A dataset folder as this project writes it: taken over as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmodels.data.folder import (
    INFO_FILE,
    SPLITS,
    DatasetError,
    DatasetInfo,
    DatasetWriter,
)
from segmodels.data.formats.common import Splitting
from segmodels.files import copy

LOOKS_FOR = "dataset.json beside train/images/ and train/labels/"


def detect(root: Path) -> bool:
    """Tell whether `root` is a dataset folder."""
    return (root / INFO_FILE).is_file() and any((root / split / "images").is_dir() for split in SPLITS)


def convert(root: Path, out: Path, *, name: str, source: Mapping[str, Any], splitting: Splitting) -> None:
    """Write the dataset folder `out` with the same files; what is wrong in them is left to the validation.

    Raises:
        DatasetError: `dataset.json` is not a description of a dataset, or there is no image.
    """
    info = DatasetInfo.read(root)
    licence = source.get("licence") or info.source.get("licence")
    merged = {**source, "licence": licence, "origin": dict(info.source)}
    with DatasetWriter(out, info.name, info.classes, source=merged, targets=info.targets) as writer:
        for split in SPLITS:
            for kind in ("images", "labels", *info.targets):
                count = _link_all(root / split / kind, writer, split, kind)
                if kind == "images" and count:
                    writer.counts[split] = count
        if not writer.counts:
            raise DatasetError(f"{root}: has no image under train/images, val/images or test/images")


def _link_all(folder: Path, writer: DatasetWriter, split: str, kind: str) -> int:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()] if folder.is_dir() else []
    for path in files:
        target = writer.path(split, kind, path.name)
        copy(path, target)
    return len(files)
