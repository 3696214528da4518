"""From light to a picture: lens, exposure, tone curve, colour, noise."""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

from segmodels.data.streets import noise
from segmodels.data.streets.common import Array, Dice
from segmodels.data.streets.scene import Light, Optics


def develop(color: Array, light: Light, optics: Optics, dice: Dice) -> NDArray[np.uint8]:
    """Linear light `[3, H, W]` (overwritten) as an image, uint8 `[H, W, 3]`."""
    _, height, width = color.shape
    color *= _falloff(height, width, optics.vignette) * np.float32(optics.exposure)
    color += np.float32(light.glare * optics.exposure + optics.black)
    if optics.smear is not None:
        column = min(int(optics.smear * width), width - 2)
        color[:, :, column : column + max(1, width // 160)] += np.float32(0.9)
    np.minimum(color, np.float32(1.15), out=color)
    if optics.blur > 0:
        _blur(color, 1, optics.blur)
    if optics.blur + optics.motion > 0:
        _blur(color, 2, min(optics.blur + optics.motion, 0.45))
    # The square root stands for the camera's gamma of 1/2.2.
    np.clip(color, 0, 1, out=color)
    picture = np.sqrt(color, out=color)
    if optics.sharpen:
        soft = picture.copy()
        _blur(soft, 1, 0.25)
        _blur(soft, 2, 0.25)
        soft -= picture
        soft *= np.float32(optics.sharpen)
        picture -= soft
    _grade(picture, optics)
    top, left = dice.integer(0, 128), dice.integer(0, 256)
    grain = noise.sensor_grain()
    rows, columns = height + top, width + left
    if rows > grain.shape[1] or columns > grain.shape[2]:
        grain = np.tile(grain, (1, -(-rows // grain.shape[1]), -(-columns // grain.shape[2])))
    picture += grain[:, top:rows, left:columns] * np.float32(optics.noise)
    picture *= 255
    np.clip(picture, 0, 255, out=picture)
    return np.ascontiguousarray(picture.astype(np.uint8).transpose(1, 2, 0))


@cache
def _radius(height: int, width: int) -> Array:
    """Squared distance from the image's middle; 1 at the corners."""
    y = (np.arange(height, dtype=np.float32) + 0.5) / height - 0.5
    x = (np.arange(width, dtype=np.float32) + 0.5) / width - 0.5
    return (y[:, None] ** 2 + x**2) * 2


def _falloff(height: int, width: int, strength: float) -> Array:
    return 1 - np.float32(strength) * _radius(height, width)


def _blur(planes: Array, axis: int, share: float) -> None:
    """Three taps along an axis, in place, `share` to each neighbour; the border keeps its own share."""
    low: list[slice] = [slice(None)] * 3
    high = low.copy()
    low[axis], high[axis] = slice(None, -1), slice(1, None)
    # What one pixel hands to the next, it loses.
    step = planes[tuple(high)] - planes[tuple(low)]
    step *= np.float32(share)
    planes[tuple(low)] += step
    planes[tuple(high)] -= step


def _grade(picture: Array, optics: Optics) -> None:
    """Contrast, saturation, white balance and the softness that chroma subsampling leaves."""
    gray = picture[0] * np.float32(0.3) + picture[1] * np.float32(0.59) + picture[2] * np.float32(0.11)
    chroma = picture - gray
    if optics.chroma_blur:
        _blur(chroma, 2, 0.25)
    chroma *= np.float32(optics.saturation)
    gray += np.float32(optics.contrast) * gray * (1 - gray) * (gray - np.float32(0.45))
    np.add(chroma, gray, out=picture)
    for channel, gain in enumerate(optics.tint):
        if gain != 1:
            picture[channel] *= np.float32(gain)
