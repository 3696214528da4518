"""Images as people have them: paths, pillow's images, arrays of several kinds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from segmodels.data.images import upright_rgb
from segmodels.errors import UserError

CHANNELS = (1, 3, 4)


class ImageInputError(UserError, ValueError):
    """What was given is no image that a model can take; the message says what would be."""


def as_rgb(image: Any) -> np.ndarray:
    """Return an image as RGB, uint8 `[H, W, 3]`.

    Args:
        image: A path, an image of pillow, or an array `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` (alpha is left
            out): of uint8, or of floats in 0..1, which are scaled to 0..255.

    Raises:
        ImageInputError: It is none of these.
        DatasetError: The file cannot be read.
    """
    if (
        isinstance(image, np.ndarray)
        and image.dtype == np.uint8
        and image.ndim == 3
        and image.shape[2] == 3
        and image.size
    ):
        return image
    if isinstance(image, str | Path):
        from segmodels.data.folder import read_image

        return read_image(image)
    if isinstance(image, Image.Image):
        try:
            return upright_rgb(image)
        except ValueError as error:
            raise ImageInputError(f"the image cannot be used: {error}") from None
    return _rgb(_eight_bits(_array(image)))


def _array(image: Any) -> np.ndarray:
    try:
        array = np.asarray(image.detach().cpu() if hasattr(image, "detach") else image)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.dtype.kind not in "uif" or array.size == 0:
        raise ImageInputError(
            f"{type(image).__name__} is no image; give a path, an image of pillow, or an array [height, width, 3]"
        )
    if array.ndim == 3 and array.shape[0] in CHANNELS and array.shape[2] not in CHANNELS:
        raise ImageInputError(
            f"the array's shape is {list(array.shape)}, channels first; give [height, width, channels], for example by "
            "image.transpose(1, 2, 0)"
        )
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in CHANNELS):
        raise ImageInputError(
            f"the array's shape is {list(array.shape)}; an image is [height, width] or [height, width, 1, 3 or 4]; "
            "several images are a list"
        )
    return array


def _eight_bits(array: np.ndarray) -> np.ndarray:
    if array.dtype == np.uint8:
        return array
    low, high = float(array.min()), float(array.max())
    if array.dtype.kind == "f":
        if not (np.isfinite([low, high]).all() and 0 <= low and high <= 1):
            raise ImageInputError(
                f"the array holds floats from {low:g} to {high:g}; give uint8 in 0..255, or floats in 0..1 that are "
                "not normalised: the model does that"
            )
        return np.rint(array * 255).astype(np.uint8)
    raise ImageInputError(f"the array holds {array.dtype} from {low:g} to {high:g}; give uint8 in 0..255")


def _rgb(array: np.ndarray) -> np.ndarray:
    if array.ndim == 2:
        array = array[:, :, None]
    return np.ascontiguousarray(np.repeat(array, 3, axis=2) if array.shape[2] == 1 else array[:, :, :3])
