"""Pictures of labels: colours, overlays, error maps and legends.

Images are RGB, uint8 `[H, W, 3]`; labels are class ids, uint8 `[H, W]`, where 255 is void. A palette is a sequence of
(r, g, b) in 0..255, one per class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from segmodels.data.palette import Color, Palette
from segmodels.tasks.pictures import INK, PAPER, RIGHT, WRONG, font

IGNORE_INDEX = 255
VOID = (0, 0, 0)


def colorize(label: np.ndarray, palette: Palette) -> np.ndarray:
    """Return the colours of a label, uint8 `[H, W, 3]`; void and ids without a colour are black."""
    table = np.zeros((256, 3), np.uint8)
    table[: len(palette)] = np.asarray(palette, np.uint8).reshape(-1, 3)
    table[IGNORE_INDEX] = VOID
    colors: np.ndarray = table[label]
    return colors


def overlay(image: np.ndarray, label: np.ndarray, palette: Palette, alpha: float = 0.5) -> np.ndarray:
    """Return the label's colours over the image, uint8 `[H, W, 3]`; void shows the image alone.

    Args:
        image: RGB, uint8 `[H, W, 3]`.
        label: Class ids, uint8 `[H, W]`.
        palette: A colour for each class.
        alpha: How much of the colour is seen, 0..1.

    Raises:
        ValueError: Image and label are not of the same size.
    """
    _same_size(image, label)
    mixed = image * np.float32(1 - alpha) + colorize(label, palette) * np.float32(alpha)
    return np.where((label == IGNORE_INDEX)[..., None], image, np.rint(mixed).astype(np.uint8))


def error_map(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """Return where a prediction is wrong, uint8 `[H, W, 3]`: right is grey-green, wrong red, void black.

    Raises:
        ValueError: The two are not of the same size.
    """
    _same_size(truth, prediction)
    colors = np.asarray([WRONG, RIGHT, VOID], np.uint8)
    seen: np.ndarray = colors[np.where(truth == IGNORE_INDEX, 2, (truth == prediction).astype(np.intp))]
    return seen


def legend(names: Sequence[str], palette: Palette, width: int = 640) -> Image.Image:
    """Return a swatch and a name for each class, in rows of at most `width` pixels.

    Raises:
        ValueError: There are not as many colours as names.
    """
    if len(names) != len(palette):
        raise ValueError(f"{len(names)} names, but {len(palette)} colours")
    letters, swatch, row = font(13), 14, 24
    places, x, y = [], 6, 0
    for name in names:
        wide = swatch + 6 + round(letters.getlength(name)) + 16
        if x > 6 and x + wide > width:
            x, y = 6, y + row
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(sheet)
    for (x, y), name, color in zip(places, names, palette, strict=True):
        draw.rectangle((x, y + 5, x + swatch, y + 5 + swatch), fill=_color(color), outline=INK)
        draw.text((x + swatch + 6, y + row // 2), name, fill=INK, font=letters, anchor="lm")
    return sheet


def _same_size(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"sizes differ: {first.shape[:2]} and {second.shape[:2]}")


def _color(color: Sequence[int]) -> Color:
    return int(color[0]), int(color[1]), int(color[2])
