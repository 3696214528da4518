"""Shared noise tiles: made once per process from fixed seeds, looked up by every frame."""

from __future__ import annotations

from functools import cache

import numpy as np

from segmodels.data.streets.common import Array, pick

SIZE = 256
_WRAP = SIZE - 1
# Keeps coordinates positive, so that the cast to int rounds down.
_SHIFT = 64 * SIZE


@cache
def fractal(roughness: float, seed: int) -> Array:
    """Return a periodic fractal field, float32 `[SIZE, SIZE]`, mean 0, deviation 1, spectrum 1 / f ** roughness."""
    white = np.random.Generator(np.random.PCG64(seed)).standard_normal((SIZE, SIZE))
    frequency = np.hypot(np.fft.fftfreq(SIZE)[:, None], np.fft.rfftfreq(SIZE)[None])
    frequency[0, 0] = np.inf
    field = np.fft.irfft2(np.fft.rfft2(white) * frequency**-roughness, s=(SIZE, SIZE))
    return np.ascontiguousarray((field - field.mean()) / field.std(), np.float32)


@cache
def sensor_grain() -> Array:
    """Return three planes of Gaussian noise, slightly correlated between neighbours and colours, float32 `[3, 512,
    1024]`.
    """
    rng = np.random.Generator(np.random.PCG64(11))
    grain = rng.standard_normal((3, 512, 1024), np.float32) + 0.8 * rng.standard_normal((512, 1024), np.float32)
    grain = grain + 0.5 * np.roll(grain, 1, -1)
    return np.ascontiguousarray(grain / grain.std(), np.float32)


def sample(tile: Array, x: Array, y: Array) -> Array:
    """Return the tile at texel coordinates (x, y), nearest texel, repeated without end."""
    column = (x + np.float32(_SHIFT)).astype(np.int32) & _WRAP
    row = (y + np.float32(_SHIFT)).astype(np.int32) & _WRAP
    return pick(tile.ravel(), row * SIZE + column)


def sample_smooth(tile: Array, x: Array, y: Array) -> Array:
    """As `sample`, interpolated between texels."""
    x, y = x + np.float32(_SHIFT), y + np.float32(_SHIFT)
    column, row = x.astype(np.int32), y.astype(np.int32)
    fx, fy = x - column.astype(np.float32), y - row.astype(np.float32)
    flat = tile.ravel()
    left, right = column & _WRAP, (column + 1) & _WRAP
    above, below = (row & _WRAP) * SIZE, ((row + 1) & _WRAP) * SIZE
    upper, lower = pick(flat, above + left), pick(flat, below + left)
    upper += (pick(flat, above + right) - upper) * fx
    lower += (pick(flat, below + right) - lower) * fx
    return upper + (lower - upper) * fy


def scatter(a: Array, b: Array, seed: Array | int) -> Array:
    """Uniform numbers in 0..1 that belong to integer cells (a, b): the same cell gives the same number."""
    key = a.astype(np.int32) * 73 + b.astype(np.int32) * 911 + np.asarray(seed, np.int32) * 37
    return pick(_uniform(), key & 4095)


@cache
def _uniform() -> Array:
    return np.random.Generator(np.random.PCG64(5)).random(4096, np.float32)
