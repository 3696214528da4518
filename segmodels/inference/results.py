"""Class maps and pictures as files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from segmodels.files import replaced
from segmodels.inference.inputs import MARK

JPEG_QUALITY = 92


def write_mask(label: np.ndarray, palette: Sequence[Sequence[int]], path: Path) -> None:
    """Write class ids, uint8 `[H, W]`, as a palette PNG in the classes' colours, whole or not at all."""
    image = (
        Image.fromarray(label, mode="P") if label.dtype == np.uint8 else Image.fromarray(label.astype(np.uint8), "P")
    )
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    image.putpalette(colors.tobytes())
    told = PngInfo()
    told.add_text("Software", MARK)
    save(image, path, "PNG", pnginfo=told)


def save(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    """Write a picture, whole or not at all."""
    with replaced(path) as part:
        image.save(part, kind, **options)
