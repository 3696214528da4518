"""Pictures that every task has: panels, a scale of colours, and files of them."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from segmodels.files import replaced
from segmodels.tasks.base import Answered, Form, Task

JPEG_QUALITY = 92
NARROWEST = 200  # pixels that a caption takes
PNG_LEVEL = 1  # higher levels take five times as long for a fifth less
# Stands in each result, so that it is no input where it lies among images: as text of a PNG, comment of a JPEG and a
# film, software of a TIFF.
MARK = "segmodels predict"
PAPER, INK = (255, 255, 255), (48, 52, 58)
RIGHT, WRONG = (78, 106, 88), (226, 52, 44)
_STOPS = ((252, 246, 190), (250, 205, 98), (242, 148, 64), (216, 84, 76), (158, 52, 104), (92, 38, 104), (30, 24, 66))


def panel(images: Sequence[np.ndarray | Image.Image], titles: Sequence[str] | None = None, gap: int = 4) -> Image.Image:
    """Return images side by side, each with a caption above it; all get the height of the first.

    Where there are captions, images that are too narrow for them are shown several times as large.

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
    if titles is not None and tiles[0].width < NARROWEST:  # pixels stay squares
        times, was = -(-NARROWEST // tiles[0].width), tiles[0].height
        tiles = [
            t.resize((t.width * times, t.height * times), Image.Resampling.NEAREST) if t.height == was else t
            for t in tiles
        ]
    height = tiles[0].height
    tiles = [t if t.height == height else t.resize((round(t.width * height / t.height), height)) for t in tiles]
    size = max(10, min(18, height // 14))
    bar = size + 8 if titles else 0
    sheet = Image.new("RGB", (sum(t.width for t in tiles) + gap * (len(tiles) - 1), height + bar), PAPER)
    draw, left = ImageDraw.Draw(sheet), 0
    for i, tile in enumerate(tiles):
        if titles:
            draw.text((left + 2, bar // 2), titles[i], fill=INK, font=font(size), anchor="lm")
        sheet.paste(tile, (left, bar))
        left += tile.width + gap
    return sheet


def save(image: Image.Image, path: Path, kind: str, **options: Any) -> None:
    """Write a picture, whole or not at all."""
    with replaced(path) as part:
        image.save(part, kind, **options)


def marked() -> PngInfo:
    """Return the text of a PNG that says it is a result."""
    told = PngInfo()
    told.add_text("Software", MARK)
    return told


def encoded(pixels: np.ndarray, kind: str) -> bytes:
    """Return a picture, RGB uint8 `[H, W, 3]`, as `image/jpeg` or `image/png`."""
    file = io.BytesIO()
    if kind == "image/jpeg":
        Image.fromarray(pixels).save(file, "JPEG", quality=JPEG_QUALITY)
    else:
        Image.fromarray(pixels).save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def png(image: Image.Image) -> bytes:
    """Return a picture of pillow's as a PNG."""
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=PNG_LEVEL)
    return file.getvalue()


def npy(values: np.ndarray) -> bytes:
    """Return an array as numpy stores it, nothing pickled."""
    file = io.BytesIO()
    np.save(file, values, allow_pickle=False)
    return file.getvalue()


def overlay_form(task: Task) -> Form:
    """Return the form that shows a value's colours over its image."""

    def encode(kind: str) -> Callable[[Answered], bytes]:
        return lambda a: encoded(task.overlay(a.image, a.value, [part.color for part in a.parts], a.alpha), kind)

    return Form({kind: encode(kind) for kind in ("image/jpeg", "image/png")})


def mixed(image: np.ndarray, drawn: np.ndarray, alpha: float) -> np.ndarray:
    """Return a drawing over its image, both RGB uint8 `[H, W, 3]`; `alpha` tells how much of the drawing is seen."""
    both: np.ndarray = np.rint(image * np.float32(1 - alpha) + drawn * np.float32(alpha)).astype(np.uint8)
    return both


def colormap(places: np.ndarray) -> np.ndarray:
    """Return the colours of places in 0..1, uint8 `[..., 3]`: from light yellow over red to dark blue, ever darker."""
    stops = np.linspace(0, 1, len(_STOPS))
    channels = [np.interp(places, stops, np.array(_STOPS)[:, c]) for c in range(3)]
    colors: np.ndarray = np.rint(np.stack(channels, axis=-1)).astype(np.uint8)
    return colors


def graded(wrong: np.ndarray) -> np.ndarray:
    """Return how wrong pixels are, RGB uint8 `[H, W, 3]`: from grey-green at 0 to red at 1; NaN is black."""
    known = np.isfinite(wrong)
    share = np.clip(np.where(known, wrong, 0.0), 0, 1)[..., None]
    colors = np.rint(np.array(RIGHT) * (1 - share) + np.array(WRONG) * share)
    return np.where(known[..., None], colors, 0).astype(np.uint8)


def scale(height: int, labels: Sequence[str]) -> np.ndarray:
    """Return the colours of `colormap` as a bar of this height, RGB uint8, with labels evenly down its side."""
    size = max(10, min(16, height // 12))
    letters, bar = font(size), max(8, height // 16)
    wide = bar + 8 + math.ceil(max(letters.getlength(label) for label in labels))
    sheet = Image.new("RGB", (wide, height), PAPER)
    sheet.paste(Image.fromarray(np.repeat(colormap(np.linspace(0, 1, height))[:, None], bar, axis=1)), (0, 0))
    draw = ImageDraw.Draw(sheet)
    for index, label in enumerate(labels):
        place = size / 2 + index * (height - size) / max(1, len(labels) - 1)
        draw.text((bar + 4, place), label, fill=INK, font=letters, anchor="lm")
    return np.asarray(sheet)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own letters: the same on every machine."""
    return ImageFont.load_default(size)


def _to_pillow(image: np.ndarray | Image.Image) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else Image.fromarray(image).convert("RGB")
