"""Small files in the shape of public layouts, and what becomes of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmodels.data.folder import DatasetInfo, read_label, samples
from segmodels.data.formats import Choices, convert
from segmodels.data.targets import target


def picture(path: Path, height: int = 2, width: int = 3) -> Path:
    """An image of any content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(path)
    return path


def ids(path: Path, values: Any, dtype: type = np.uint8, palette: Sequence[int] | None = None) -> Path:
    """A single-channel image; with a palette a palette image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(values, dtype))
    if palette is not None:
        image.putpalette([*palette, *[0] * (768 - len(palette))])
    image.save(path)
    return path


def colors(path: Path, values: Any) -> Path:
    """An image of colours, `[H, W, 3]`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(values, np.uint8)).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


class Converted:
    """A folder as it is read: its key, its description, and the label of each sample."""

    def __init__(self, root: Path, out: Path, format: str = "auto", **choices: Any) -> None:  # noqa: A002
        self.out = out
        self.key = convert(root, format, out, choices=Choices(**choices))
        self.info = DatasetInfo.read(out)
        self.names = self.info.class_names

    def label(self, split: str, sample_id: str) -> list[list[int]]:
        """The class ids of a sample."""
        (sample,) = (s for s in samples(self.out, split) if s.id == sample_id)
        values: list[list[int]] = read_label(sample.label).tolist()
        return values

    def named(self, split: str, sample_id: str) -> list[list[str]]:
        """The class names of a sample's pixels; `-` is void."""
        return [["-" if v == 255 else self.names[v] for v in row] for row in self.label(split, sample_id)]

    def truth(self, split: str, sample_id: str, name: str) -> np.ndarray:
        """A further target of a sample."""
        kind = target(name)
        path = self.out / split / name / (sample_id + kind.suffix)
        return kind.read(path, self.info.targets[name])

    def ids(self, split: str) -> list[str]:
        return [s.id for s in samples(self.out, split)] if self.info.splits.get(split) else []
