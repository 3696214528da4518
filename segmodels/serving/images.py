"""From the bytes of a request to an image; what could hurt is refused before it is decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from segmodels.data.bands import PLAIN, Bands
from segmodels.data.folder import DatasetError
from segmodels.data.images import FORMATS, MODES, TooManyPixelsError, open_image, upright_rgb

SHORTEST = 32  # pixels of a side that every architecture takes


class RefusedError(Exception):
    """A request that cannot be answered; the status code and one sentence."""

    def __init__(self, status: int, sentence: str, reason: str) -> None:
        super().__init__(sentence)
        self.status, self.sentence, self.reason = status, sentence, reason


@dataclass(frozen=True)
class Upload:
    """An image as it came: the name that it is spoken of by, and the file's bytes."""

    name: str
    data: bytes


def decode(upload: Upload, max_pixels: int, bands: Bands = PLAIN) -> np.ndarray:
    """Return the image as RGB, uint8 `[H, W, 3]`, turned upright as its EXIF says; as `segmodels predict` reads it.

    Args:
        upload: The file.
        max_pixels: Height times width that is still decoded; the header tells it.
        bands: What the model takes of it; RGB of 8 bits by default.

    Raises:
        RefusedError: 413 where it has too many pixels, 422 where it is no image of 8 bits a channel.
    """
    name = upload.name
    if not upload.data:
        raise RefusedError(422, f"{name}: empty; send the bytes of an image file", "not_an_image")
    try:
        if not bands.plain:
            return _banded(upload, max_pixels, bands)
        with open_image(io.BytesIO(upload.data), max_pixels=max_pixels) as image:
            _check(image, name)
            return upright_rgb(image)
    except TooManyPixelsError as error:
        raise RefusedError(413, f"{name}: {error}; send a smaller image", "pixels") from None
    except UnidentifiedImageError:
        kinds = ", ".join(FORMATS)
        raise RefusedError(422, f"{name}: not an image that can be read; send one of {kinds}", "not_an_image") from None
    except RefusedError:
        raise
    except Exception as error:  # whatever a decoder says of hostile bytes
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        sentence = f"{name}: a damaged or truncated image ({told[:120]}); send it again"
        raise RefusedError(422, sentence, "not_an_image") from None


def _banded(upload: Upload, max_pixels: int, bands: Bands) -> np.ndarray:
    try:
        pixels = bands.read(upload.data, upload.name, max_pixels=max_pixels)
    except DatasetError as error:
        raise RefusedError(422, str(error), "not_an_image") from None
    _check_size(pixels.shape[1], pixels.shape[0], upload.name)
    return pixels


def _check_size(width: int, height: int, name: str) -> None:
    if min(width, height) < SHORTEST:
        sentence = f"{name}: {width} x {height}; both sides need at least {SHORTEST} pixels"
        raise RefusedError(422, sentence, "too_small")


def _check(image: Image.Image, name: str) -> None:
    _check_size(*image.size, name)
    # The further pictures of a phone's MPO are a preview or a map of brightness.
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise RefusedError(422, f"{name}: has {image.n_frames} frames; send one image", "animated")  # type: ignore[attr-defined]
    if image.mode not in MODES:
        raise RefusedError(422, f"{name}: {image.mode} pixels; send 8 bits a channel", "depth")
