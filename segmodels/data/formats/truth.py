"""Truth as several datasets store it: at another size than its image, in MATLAB files, as depth; and lists of ids."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import DatasetError
from segmodels.data.formats.decode import image_size, instances_of, looked_up, packed_colors, values_of
from segmodels.data.formats.layout import Decoder
from segmodels.data.palette import Color
from segmodels.files import read_text


def at_size(decode: Decoder, image: Path) -> Decoder:
    """Decode at the size of the image: each pixel takes the value at its centre, none are mixed."""

    def decoded() -> np.ndarray:
        values, size = decode(), image_size(image)
        if values.shape == size:
            return values
        rows, columns = (((np.arange(b) + 0.5) * a / b).astype(int) for a, b in zip(values.shape, size, strict=True))
        return values[rows][:, columns]

    return decoded


def by_corner(path: Path, table: dict[Color, int], slack: int = 127) -> Decoder:
    """Decode colours whose channels are 0 or 255, and that a program has changed by up to `slack`."""
    packed = {(r << 16) + (g << 8) + b: index for (r, g, b), index in table.items()}
    nearest = np.arange(256)
    nearest[: slack + 1], nearest[255 - slack :] = 0, 255

    def decode() -> np.ndarray:
        colors = packed_colors(path)
        values = (nearest[colors >> 16] << 16) + (nearest[colors >> 8 & 255] << 8) + nearest[colors & 255]
        return looked_up(values, packed, lambda v: f"colour {v >> 16, v >> 8 & 255, v & 255}", path)

    return decode


def depth(path: Path, metres: float, void: int = 0) -> Decoder:
    """Decode a depth image of 16 bits in steps of so many metres."""

    def decode() -> np.ndarray:
        values = values_of(path)
        return np.where(values == void, 0, values).astype(np.float32) * np.float32(metres)

    return decode


def objects(path: Path, *void: int) -> Decoder:
    """Decode an image of objects' numbers; 0 and the given numbers are none."""

    def decode() -> np.ndarray:
        values = values_of(path)
        return instances_of(np.where(np.isin(values, void), 0, values))

    return decode


def listed(path: Path) -> list[str]:
    """Return the lines of a list, without blanks around them and without empty ones."""
    return [line.strip() for line in read_text(path).splitlines() if line.strip()]


def matlab(path: Path) -> dict[str, Any]:
    """Return the variables of a MATLAB file.

    Raises:
        DatasetError: It is none, or one of version 7.3, which is HDF5.
    """
    from scipy.io import loadmat

    try:
        content: dict[str, Any] = loadmat(path)
    except NotImplementedError:
        raise DatasetError(
            f"{path}: is a MATLAB file of version 7.3 (HDF5), which is not read; save it with `save(…, '-v7')`, or "
            "give the images that others have made of it"
        ) from None
    except Exception as error:  # a damaged one raises whatever its bytes lead to
        raise DatasetError(f"{path}: cannot be read as a MATLAB file ({error}); restore it") from None
    return content
