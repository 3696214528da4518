"""Pictures of labels: colours, overlays, error maps, panels and legends.

Images are RGB, uint8 `[H, W, 3]`; labels are class ids, uint8 `[H, W]`, where 255 is void. A palette is a sequence of
(r, g, b) in 0..255, one per class.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from segmodels.data.palette import Color, Palette

IGNORE_INDEX = 255
VOID = (0, 0, 0)
RIGHT = (78, 106, 88)
WRONG = (226, 52, 44)
PAPER, INK = (255, 255, 255), (48, 52, 58)


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


def panel(images: Sequence[np.ndarray | Image.Image], titles: Sequence[str] | None = None, gap: int = 4) -> Image.Image:
    """Return images side by side, each with a caption above it; all get the height of the first.

    Args:
        images: RGB images, arrays or pillow's.
        titles: A caption for each; without captions there is no bar for them.
        gap: Pixels between two images.

    Raises:
        ValueError: There are no images, or not as many captions as images.
    """
    if not images:
        raise ValueError("a panel needs at least one image")
    if titles is not None and len(titles) != len(images):
        raise ValueError(f"{len(images)} images, but {len(titles)} captions")
    tiles = [_to_pillow(image) for image in images]
    height = tiles[0].height
    tiles = [t if t.height == height else t.resize((round(t.width * height / t.height), height)) for t in tiles]
    size = max(10, min(18, height // 14))
    bar = size + 8 if titles else 0
    sheet = Image.new("RGB", (sum(t.width for t in tiles) + gap * (len(tiles) - 1), height + bar), PAPER)
    draw, left = ImageDraw.Draw(sheet), 0
    for i, tile in enumerate(tiles):
        if titles:
            draw.text((left + 2, bar // 2), titles[i], fill=INK, font=_font(size), anchor="lm")
        sheet.paste(tile, (left, bar))
        left += tile.width + gap
    return sheet


def legend(names: Sequence[str], palette: Palette, width: int = 640) -> Image.Image:
    """Return a swatch and a name for each class, in rows of at most `width` pixels.

    Raises:
        ValueError: There are not as many colours as names.
    """
    if len(names) != len(palette):
        raise ValueError(f"{len(names)} names, but {len(palette)} colours")
    font, swatch, row = _font(13), 14, 24
    places, x, y = [], 6, 0
    for name in names:
        wide = swatch + 6 + round(font.getlength(name)) + 16
        if x > 6 and x + wide > width:
            x, y = 6, y + row
        places.append((x, y))
        x += wide
    sheet = Image.new("RGB", (width, y + row), PAPER)
    draw = ImageDraw.Draw(sheet)
    for (x, y), name, color in zip(places, names, palette, strict=True):
        draw.rectangle((x, y + 5, x + swatch, y + 5 + swatch), fill=_color(color), outline=INK)
        draw.text((x + swatch + 6, y + row // 2), name, fill=INK, font=font, anchor="lm")
    return sheet


def _same_size(first: np.ndarray, second: np.ndarray) -> None:
    if first.shape[:2] != second.shape[:2]:
        raise ValueError(f"sizes differ: {first.shape[:2]} and {second.shape[:2]}")


def _to_pillow(image: np.ndarray | Image.Image) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image).convert("RGB")


def _color(color: Sequence[int]) -> Color:
    return int(color[0]), int(color[1]), int(color[2])


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    # Pillow's own font: the same letters on every machine.
    return ImageFont.load_default(size)
