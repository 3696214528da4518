"""Paint on the road, as coverage between 0 and 1, filtered by the footprint of a pixel."""

from __future__ import annotations

import numpy as np

from segmodels.data.streets.common import Array, modulo
from segmodels.data.streets.scene import Road


def coverage(road: Road, u: Array, s: Array, footprint_u: Array, footprint_s: Array) -> tuple[Array, Array]:
    """Coverage by white and by yellow paint.

    Args:
        road: The road with its markings.
        u: Metres to the right of the road's middle, `[n]`.
        s: Metres along the street, `[n]`.
        footprint_u: Width of a pixel on the ground, metres, `[n]`.
        footprint_s: Its length, metres, `[n]`.
    """
    marks = road.markings
    edge = road.half_width
    narrow = 1 / footprint_u
    long = 1 / footprint_s

    def line(centre: float, width: float) -> Array:
        """Return a line along the street."""
        return _box(u - np.float32(centre), width, narrow)

    def span(low: float, high: float) -> Array:
        """Return a stretch of the street."""
        return _box(s - np.float32((low + high) / 2), high - low, long)

    white = np.zeros_like(u)
    yellow = np.zeros_like(u)
    period, length = marks.dash[0] + marks.dash[1], marks.dash[0] * 0.6
    dashes = _comb(s, period, length, footprint_s) if marks.centre == "dashed" or marks.lanes else None
    if marks.centre == "dashed" and dashes is not None:
        white += line(0, 0.12) * dashes
    elif marks.centre == "solid":
        white += line(0, 0.12)
    elif marks.centre == "double":
        white += line(-0.13, 0.1) + line(0.13, 0.1)
    for lane in marks.lanes:
        white += line(lane, 0.1) * dashes
    if marks.edge == "white":
        white += _box(np.abs(u) - np.float32(edge - 0.35), 0.1, narrow)
    elif marks.edge == "yellow":
        yellow += _box(np.abs(u) - np.float32(edge - 0.3), 0.08, narrow)
        yellow += _box(np.abs(u) - np.float32(edge - 0.5), 0.08, narrow)
    for position in marks.stop:
        white += span(position, position + 0.35)
    for position in marks.zebra:
        white += span(position, position + 2.8) * _comb(u, marks.zebra_period, marks.zebra_period / 2, footprint_u)
    if marks.zigzag:
        low, high = marks.zigzag
        wave = np.float32(0.5) * np.abs(modulo(s * np.float32(0.5), 2) - 1)
        white += span(low, high) * _box(np.abs(u) - (np.float32(edge - 0.75) + wave), 0.12, narrow)
    if marks.hatching:
        low, high = marks.hatching
        inside = span(low, high) * line(0, 1.6)
        white += inside * _comb(s + u, 2.4, 0.35, footprint_s + footprint_u)
        white += span(low, high) * (line(-0.85, 0.12) + line(0.85, 0.12))
    if marks.box:
        low, high = marks.box
        inside = span(low, high) * _box(u, 2 * edge - 0.6, narrow)
        foot = footprint_s + footprint_u
        yellow += inside * np.maximum(_comb(s + u, 2.2, 0.2, foot), _comb(s - u, 2.2, 0.2, foot))
    for position_u, position_s in marks.arrows:
        white += span(position_s, position_s + 2.6) * line(position_u, 0.15)
        taper = np.clip((np.float32(position_s + 4.2) - s) * np.float32(0.28), 0, 1)
        white += span(position_s + 2.6, position_s + 4.2) * _box(u - np.float32(position_u), taper, narrow)
    return np.minimum(white, 1), np.minimum(yellow, 1)


def _box(distance: Array, width: float | Array, inverse_footprint: Array) -> Array:
    """Return share of a pixel that lies within width / 2 of the centre."""
    covered = (np.float32(0.5) * np.asarray(width, np.float32) - np.abs(distance)) * inverse_footprint + np.float32(0.5)
    limit = np.minimum(np.asarray(width, np.float32) * inverse_footprint, 1)
    return np.minimum(np.maximum(covered, 0), limit)


def _comb(position: Array, period: float, length: float, footprint: Array) -> Array:
    """Dashes of `length` each `period`; far away, where a pixel sees several, their average."""
    offset = np.abs(modulo(position, period) - np.float32(period / 2))
    sharp = np.clip((np.float32(length / 2) - offset) / footprint + np.float32(0.5), 0, 1)
    blend = np.clip(footprint * np.float32(1.5 / period) - np.float32(0.5), 0, 1)
    return sharp + (np.float32(length / period) - sharp) * blend
