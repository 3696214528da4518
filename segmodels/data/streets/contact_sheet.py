"""A sheet of frames beside their labels, and every target of one: `python -m segmodels.data.streets.contact_sheet`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from segmodels.data.streets.classes import CLASSES
from segmodels.data.streets.render import Frame, render_sequence

_HEIGHT, _WIDTH = 360, 480
_TILE = (216, 162)
_GAP = 3


def contact_sheet(seed: int, indices: Sequence[int], columns: int = 3) -> Image.Image:
    """Return pictures above their labels, `columns` a row; the last rows show depth, normals and instances of the
    first.

    Args:
        seed: Seed of the dataset.
        indices: Frames of the split `train`.
        columns: Frames a row.
    """
    frames = [
        render_sequence(seed, "train", index, frames=1, height=_HEIGHT, width=_WIDTH,
                        targets=("instances", "depth", "normals"))[0]
        for index in indices
    ]  # fmt: skip
    palette = np.array([c.color for c in CLASSES], np.uint8)
    rows: list[list[Image.Image]] = []
    for start in range(0, len(frames), columns):
        chunk = frames[start : start + columns]
        rows.append([_picture(f.image) for f in chunk])
        rows.append([_drawing(palette[f.label]) for f in chunk])
    rows.append([_drawing(t) for t in _targets(frames[0])][:columns])
    width, height = _TILE[0] + _GAP, _TILE[1] + _GAP
    sheet = Image.new("RGB", (columns * width - _GAP, len(rows) * height - _GAP), "white")
    for y, row in enumerate(rows):
        for x, tile in enumerate(row):
            sheet.paste(tile, (x * width, y * height))
    return sheet


def _picture(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize(_TILE, Image.Resampling.LANCZOS)


def _drawing(image: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(image).resize(_TILE, Image.Resampling.NEAREST)


def _targets(frame: Frame) -> list[NDArray[np.uint8]]:
    """Depth (near is bright), normals and instances as pictures."""
    assert frame.depth is not None and frame.normals is not None and frame.instances is not None
    near = np.clip(4.0 / frame.depth, 0, 1) ** 0.5
    depth = np.stack([near * 255, near**2 * 220 + 20 * (near > 0), 90 + 120 * (1 - near)], -1) * (near > 0)[..., None]
    normals = (frame.normals * [1, -1, -1] + 1) * 127.5 * (np.abs(frame.normals).sum(-1, keepdims=True) > 0)
    colors = np.random.Generator(np.random.PCG64(1)).integers(60, 256, (int(frame.instances.max()) + 1, 3))
    colors[0] = 25
    return [depth.astype(np.uint8), normals.astype(np.uint8), colors[frame.instances].astype(np.uint8)]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs/streets.png"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--indices", type=int, nargs="+", default=[39, 11, 54, 44, 57, 33])
    options = parser.parse_args()
    sheet = contact_sheet(options.seed, options.indices)
    # Without the lowest bit of their noise the pictures compress to a size that a repository can hold.
    options.out.parent.mkdir(parents=True, exist_ok=True)
    ImageOps.posterize(sheet, 7).save(options.out, optimize=True)


if __name__ == "__main__":
    main()
