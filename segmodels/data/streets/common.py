"""Array types and the random source that the modules of the generator share."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

# Pixel data is float32 throughout; numpy's type stubs widen it at every scalar, so the alias does not say so.
Array = NDArray[Any]
IntArray = NDArray[Any]
Color = tuple[float, float, float]
T = TypeVar("T")

_CHUNK = 2048


class Dice:
    """Random numbers of one frame, the same for the same key in every process.

    Numbers are drawn in bulk: a scalar from a numpy generator costs ten times as much as one from a list, and a
    scene takes a thousand.
    """

    def __init__(self, seed: int, split: str, index: int, *stream: int) -> None:
        entropy = (seed, zlib.crc32(split.encode()), index, *stream)
        self._generator = np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))
        self._pool: list[float] = []

    def unit(self) -> float:
        """Return a number in 0..1."""
        if not self._pool:
            self._pool = self._generator.random(_CHUNK).tolist()
        return self._pool.pop()

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.unit()

    def normal(self, mean: float, deviation: float) -> float:
        """Return a bell-shaped number within three deviations of the mean (sum of three uniform ones)."""
        return mean + deviation * 2.0 * (self.unit() + self.unit() + self.unit() - 1.5)

    def chance(self, probability: float) -> bool:
        return self.unit() < probability

    def integer(self, low: int, high: int) -> int:
        """Return a whole number in low..high-1."""
        return low + int((high - low) * self.unit())

    def choice(self, items: Sequence[T]) -> T:
        return items[int(len(items) * self.unit())]

    def vary(self, color: Sequence[float], spread: float) -> Color:
        """Return the colour with its brightness and, less so, its hue changed."""
        gain = 1.0 + spread * (2.0 * self.unit() - 1.0)
        warmth = 0.3 * spread * (2.0 * self.unit() - 1.0)
        red, green, blue = color
        return red * gain * (1.0 + warmth), green * gain, blue * gain * (1.0 - warmth)


def pick(table: NDArray[Any], index: NDArray[Any]) -> NDArray[Any]:
    """`table[index]` without the check of bounds, which takes as long as the look-up itself."""
    return table.take(index, mode="clip")


def modulo(x: Array, period: float | Array) -> Array:
    """x % period for positive periods, fifteen times as fast as numpy's own."""
    period = np.asarray(period, np.float32)
    return x - np.floor(x * (1 / period)) * period


def as_table(rows: Sequence[Any], width: int) -> Array:
    """Return rows of numbers as float32 `[len(rows), width]`, also when there are none."""
    return np.asarray(rows, np.float32).reshape(len(rows), width)
