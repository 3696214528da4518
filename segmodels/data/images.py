"""Opening image files: one way for every reader, whoever made the file.

Pillow knows dozens of formats, some of which start other programs (EPS: Ghostscript) or read other files; here are
those that a photo, a scan or a label map comes in. The header tells the size, which is judged before anything is
decoded.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

# Decoders of Pillow that start no other program and read no other file.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM")
# Of 8 bits a channel; what is deeper Pillow would clip to 255.
MODES = frozenset({"1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"})
# Pixels of an image that is decoded whole, about 13,000 x 13,000; half a gigabyte.
MAX_PIXELS = 2 * 89_478_485
# Pixels that threads of one process decode at the same time; a larger image is decoded alone.
IN_FLIGHT = 1 << 26
_STRIP = 1 << 22
_ORIENTATION, _SIDEWAYS = 0x0112, (5, 6, 7, 8)
_SUBFILE, _BITS = 254, 258  # of a TIFF: what a page is, bits of each of its samples

# Our own limit takes the place of Pillow's warning, which begins at half of it.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class TooManyPixelsError(ValueError):
    """The header of an image promises more pixels than are decoded."""


@contextmanager
def open_image(
    file: Path | str | BinaryIO, *, max_pixels: int = MAX_PIXELS, formats: Sequence[str] = FORMATS
) -> Iterator[Image.Image]:
    """Open an image file; its header is read and judged, and nothing else of it.

    Args:
        file: The file.
        max_pixels: Height times width that may be decoded.
        formats: Pillow's names of the formats that it may have, whatever its name says.

    Raises:
        TooManyPixelsError: It has more pixels.
        OSError: It is no image of these formats.
    """
    try:
        opened = Image.open(file, formats=tuple(formats))
    except Image.DecompressionBombError:
        raise TooManyPixelsError(f"more than {max_pixels} pixels") from None
    with opened as image:
        width, height = image.size
        if width * height > max_pixels:
            raise TooManyPixelsError(f"{width} x {height} are more than {max_pixels} pixels")
        yield image


def orientation(image: Image.Image) -> int:
    """Return how an opened image is turned, 1 to 8, as its EXIF says; 1 where it says nothing that counts."""
    turn = image.getexif().get(_ORIENTATION, 1)
    return turn if turn in range(1, 9) else 1


def turned(values: np.ndarray, turn: int) -> np.ndarray:
    """Return stored pixels `[H, W]` or `[H, W, C]` as EXIF's orientation shows them."""
    if turn == 1:
        return values
    swapped = values.swapaxes(0, 1) if turn in _SIDEWAYS else values
    rows, columns = -1 if turn in (3, 4, 7, 8) else 1, -1 if turn in (2, 3, 6, 7) else 1
    return swapped[::rows, ::columns].copy()


def lost(image: Image.Image) -> str:
    """Tell what reading an opened image as RGB of 8 bits would leave out: depth, or pages; empty where it is nothing.

    Pillow gives the high bytes of a 16-bit RGB image and the first page of many, and says nothing.
    """
    if image.mode not in MODES:
        return f"its pixels are {image.mode}, which have more than 8 bits a channel"
    if image.format == "PNG" or image.format == "TIFF":
        tile = getattr(image, "tile", None)
        depth = tile[0][3] if tile else ""
        bits = getattr(image, "tag_v2", {}).get(_BITS, (8,))
        if ";16" in str(depth) or max(bits if isinstance(bits, tuple) else (bits,)) > 8:
            return "it has 16 bits a channel"
    if image.format == "PPM" and (tile := getattr(image, "tile", None)):
        largest = tile[0][3][-1] if isinstance(tile[0][3], tuple) else 0
        if isinstance(largest, int) and largest > 255:
            return "it has 16 bits a channel"
    pages = _pages(image)
    return f"it holds {pages} pages or frames" if pages > 1 else ""


def _pages(image: Image.Image) -> int:
    """Return how many pictures a file holds, without the smaller copies and masks of a TIFF.

    The further pictures of a phone's MPO are a preview or a map of brightness, so that it holds one.
    """
    frames = getattr(image, "n_frames", 1)
    if image.format == "MPO" or frames == 1:
        return 1
    if image.format != "TIFF":
        return int(frames)
    own = 0
    for number in range(frames):
        image.seek(number)
        own += not image.tag_v2.get(_SUBFILE, 0) & 0b101  # type: ignore[attr-defined]
    image.seek(0)
    return own


def upright_size(image: Image.Image) -> tuple[int, int]:
    """(height, width) of an opened image as `upright_rgb` gives it; nothing is decoded."""
    width, height = image.size
    return (width, height) if image.getexif().get(_ORIENTATION) in _SIDEWAYS else (height, width)


def upright_rgb(image: Image.Image) -> np.ndarray:
    """Return an opened image as RGB, uint8 `[H, W, 3]`, turned upright as its EXIF says.

    Raises:
        ValueError: It has more than 8 bits a channel, or several pages.
    """
    if why := lost(image):
        raise ValueError(f"{why}; save it as one image of 8 bits a channel")
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    return _pixels(image if image.mode == "RGB" else image.convert("RGB"))


def _pixels(image: Image.Image) -> np.ndarray:
    """As `numpy.asarray`, in strips where it is large, so that there is one copy at a time and not three."""
    width, height = image.size
    if width * height <= _STRIP:
        return np.asarray(image)
    pixels = np.empty((height, width, 3), np.uint8)
    rows = max(1, _STRIP // width)
    for top in range(0, height, rows):
        bottom = min(height, top + rows)
        pixels[top:bottom] = np.asarray(image.crop((0, top, width, bottom)))
    return pixels


class PixelBudget:
    """How many pixels threads decode at the same time: memory then does not grow with threads or sizes of images.

    Args:
        limit: Pixels in flight; what has more alone waits until nothing else is in flight.
    """

    def __init__(self, limit: int = IN_FLIGHT) -> None:
        self.limit, self._held = limit, 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until these pixels fit, and counts them while the body runs."""
        with self._changed:
            self._changed.wait_for(lambda: self._held == 0 or self._held + pixels <= self.limit)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def hold_image(self, file: Path | str | BinaryIO) -> AbstractContextManager[None]:
        """`hold` for the pixels that a file's header promises; none for what is no image."""
        try:
            with open_image(file) as image:
                pixels = image.width * image.height
        except Exception:  # the reader says what is wrong with it
            pixels = 0
        return self.hold(pixels)
