"""Colours of classes: (r, g, b) in 0..255, one for each class."""

from __future__ import annotations

import colorsys
import re
from collections.abc import Sequence

Color = tuple[int, int, int]
Palette = Sequence[Sequence[int]]


def default_palette(num_classes: int) -> list[Color]:
    """Return colours for a dataset that names none: neighbouring ids lie far apart, none is near black."""
    colors = []
    for i in range(num_classes):
        hue = (0.58 + i * 0.61803398875) % 1  # the golden ratio never repeats a hue
        saturation, value = ((0.62, 0.90), (0.85, 0.66), (0.42, 0.98))[i // 5 % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        colors.append((round(red * 255), round(green * 255), round(blue * 255)))
    return colors


def from_hex(text: str) -> Color:
    """Return `#rrggbb` as (r, g, b).

    Raises:
        ValueError: It is no such text.
    """
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text!r} is no colour `#rrggbb`")
    red, green, blue = (int(text[i : i + 2], 16) for i in (1, 3, 5))
    return red, green, blue
