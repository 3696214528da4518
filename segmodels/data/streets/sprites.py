"""The sprite atlas: people, bicycles, trees and signs as soft masks, drawn once per process from fixed seeds.

A sprite is a stack of parts (skin, hair, coat, ...). Each part is a coverage mask; a palette with one colour per part
turns the stack into premultiplied RGBA, so that one drawing serves for any clothing, season or paint.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw

from segmodels.data.streets import noise
from segmodels.data.streets.common import Array

Points = Sequence[tuple[float, float]]
_OVERSAMPLE = 3


@dataclass(frozen=True)
class Sprite:
    """One drawing.

    Attributes:
        parts: Coverage masks, a mip pyramid of float32 `[parts, h, w]` from fine to coarse.
        label: The region that an annotator would outline, a pyramid of float32 `[h, w]`.
        aspect: Width over height.
    """

    parts: tuple[Array, ...]
    label: tuple[Array, ...]
    aspect: float


class Canvas:
    """Draws parts over each other in units of the sprite's height; (0, 0) is the middle of its foot, y goes up."""

    def __init__(self, height: int, aspect: float, parts: int, zoom: float = 1.0) -> None:
        self.aspect = aspect
        self._scale = height * _OVERSAMPLE * zoom
        self._size = (round(height * aspect) * _OVERSAMPLE, height * _OVERSAMPLE)
        self._owner = Image.new("L", self._size, 0)
        self._draw = ImageDraw.Draw(self._owner)
        self._parts = parts

    def _points(self, points: Points) -> list[tuple[float, float]]:
        return [(self._size[0] / 2 + x * self._scale, self._size[1] - y * self._scale) for x, y in points]

    def polygon(self, part: int, points: Points) -> None:
        self._draw.polygon(self._points(points), fill=part + 1)

    def ellipse(self, part: int, x: float, y: float, rx: float, ry: float) -> None:
        corners = self._points([(x - rx, y + ry), (x + rx, y - ry)])
        self._draw.ellipse(corners, fill=part + 1)

    def ring(self, part: int, x: float, y: float, radius: float, width: float) -> None:
        corners = self._points([(x - radius, y + radius), (x + radius, y - radius)])
        self._draw.ellipse(corners, outline=part + 1, width=max(1, round(width * self._scale)))

    def limb(self, part: int, points: Points, width: float, end: float | None = None) -> None:
        """Draw a line of joints that tapers from `width` to `end`."""
        end = width if end is None else end
        steps = max(1, len(points) - 1)
        for i, (start, stop) in enumerate(pairwise(points)):
            first = width + (end - width) * i / steps
            last = width + (end - width) * (i + 1) / steps
            angle = math.atan2(stop[1] - start[1], stop[0] - start[0]) + math.pi / 2
            ox, oy = math.cos(angle) / 2, math.sin(angle) / 2
            self.polygon(part, [
                (start[0] + ox * first, start[1] + oy * first), (stop[0] + ox * last, stop[1] + oy * last),
                (stop[0] - ox * last, stop[1] - oy * last), (start[0] - ox * first, start[1] - oy * first),
            ])  # fmt: skip
            self.ellipse(part, *stop, last / 2, last / 2)

    def erase(self, points: Points) -> None:
        self.polygon(-1, points)

    def sprite(self, close: int = 0, discs: Sequence[tuple[float, float, float]] = ()) -> Sprite:
        """Return the finished sprite; gaps up to about 2 x `close` texels and `discs` (x, y, radius) belong to the
        label.
        """
        owner = np.asarray(self._owner)
        stack = np.stack([(owner == part + 1) for part in range(self._parts)]).astype(np.float32)
        parts = _reduce(stack, _OVERSAMPLE)
        alpha = parts.sum(0)
        label = _close(alpha, close) if close else alpha
        if discs:
            for x, y, radius in discs:
                self.ellipse(self._parts, x, y, radius, radius)
            label = np.maximum(
                label, _reduce((np.asarray(self._owner) > self._parts)[None].astype(np.float32), _OVERSAMPLE)[0]
            )
        return build(parts, label, self.aspect)


def build(parts: Array, label: Array, aspect: float) -> Sprite:
    """Return a sprite from its finest level."""
    levels, labels = [np.ascontiguousarray(parts, np.float32)], [np.ascontiguousarray(label, np.float32)]
    while min(levels[-1].shape[1:]) >= 4:
        levels.append(_reduce(levels[-1], 2))
        labels.append(_reduce(labels[-1][None], 2)[0])
    return Sprite(tuple(levels), tuple(labels), aspect)


def _reduce(stack: Array, factor: int) -> Array:
    count, height, width = stack.shape
    height, width = height // factor, width // factor
    cut = stack[:, : height * factor, : width * factor]
    return cut.reshape(count, height, factor, width, factor).mean((2, 4), dtype=np.float32)


def _close(alpha: Array, size: int) -> Array:
    mask = np.pad(alpha > 0.3, size + 1)
    for shrink in (False, True):
        for _ in range(size):
            mask = ~mask if shrink else mask
            mask = mask | np.roll(mask, 1, 0) | np.roll(mask, -1, 0) | np.roll(mask, 1, 1) | np.roll(mask, -1, 1)
            mask = ~mask if shrink else mask
    border = size + 1
    return mask[border:-border, border:-border].astype(np.float32)


# -- people: skin, hair, top, trousers, extra (bag, shoes) ---------------------------------------------------------

SKIN, HAIR, TOP, LEGS, EXTRA = range(5)


def _person(rng: np.random.Generator) -> Sprite:
    canvas = Canvas(112, 0.42, 5)
    stride = rng.uniform(0.01, 0.13)
    build_width = rng.uniform(0.85, 1.25)
    hip, shoulder = 0.5, 0.82
    for side, lift in ((1, rng.uniform(0, 0.04)), (-1, 0.0)):
        foot = side * stride + rng.uniform(-0.01, 0.01)
        knee = (foot * 0.4 + 0.02, 0.27)
        width = 0.085 * build_width
        canvas.limb(LEGS, [(side * 0.028 * build_width, hip), knee, (foot, 0.04 + lift)], width, width * 0.6)
        canvas.ellipse(EXTRA, foot + 0.015, 0.022 + lift, 0.038, 0.022)
    half, waist = 0.105 * build_width, 0.085 * build_width
    hem = rng.choice([0.48, 0.46, 0.40, 0.28], p=[0.4, 0.3, 0.2, 0.1])
    swing = rng.uniform(-0.1, 0.1)
    canvas.limb(TOP, [(-half, 0.79), (-half - 0.02, 0.62), (-half + swing, 0.47)], 0.06, 0.045)
    canvas.ellipse(SKIN, -half + swing, 0.455, 0.018, 0.022)
    canvas.polygon(TOP, [(-half, shoulder), (half, shoulder), (waist, 0.58), (waist * 1.1, hem), (-waist * 1.1, hem),
                         (-waist, 0.58)])  # fmt: skip
    canvas.ellipse(TOP, 0, shoulder, half, 0.035)
    canvas.limb(TOP, [(half, 0.79), (half + 0.025, 0.62), (half - swing, 0.48)], 0.06, 0.045)
    canvas.ellipse(SKIN, half - swing, 0.465, 0.018, 0.022)
    if rng.random() < 0.35:
        x = half * rng.choice([-1, 1])
        canvas.polygon(EXTRA, [(x - 0.05, 0.56), (x + 0.05, 0.56), (x + 0.06, 0.40), (x - 0.06, 0.40)])
    canvas.limb(SKIN, [(0, 0.82), (0, 0.88)], 0.05)
    canvas.ellipse(SKIN, 0, 0.915, 0.05, 0.066)
    facing_away = rng.random() < 0.5
    canvas.ellipse(HAIR, 0, 0.945, 0.054, 0.045)
    if facing_away:
        canvas.ellipse(HAIR, 0, 0.918, 0.053, 0.06)
    return canvas.sprite()


# -- cyclists: skin, hair or helmet, top, trousers, bicycle --------------------------------------------------------


_WHEELS = ((-0.3, 0.19, 0.19), (0.3, 0.19, 0.19))


def _bicycle_side(canvas: Canvas, part: int) -> None:
    for x in (-0.3, 0.3):
        canvas.ring(part, x, 0.19, 0.19, 0.026)
    crank, saddle, head = (-0.04, 0.19), (-0.12, 0.5), (0.2, 0.5)
    for line in ([(-0.3, 0.19), crank, head, (0.3, 0.19)], [(-0.3, 0.19), saddle], [crank, saddle],
                 [(-0.11, 0.45), (0.19, 0.46)]):  # fmt: skip
        canvas.limb(part, line, 0.024)
    canvas.limb(part, [(0.2, 0.5), (0.19, 0.57), (0.26, 0.57)], 0.02)
    canvas.limb(part, [(-0.18, 0.52), (-0.06, 0.52)], 0.035)


def _cyclist_side(rng: np.random.Generator) -> Sprite:
    canvas = Canvas(112, 1.0, 5)
    _bicycle_side(canvas, 4)
    lean = rng.uniform(0.04, 0.16)
    shoulder = (-0.1 + lean, 0.82)
    turn = rng.uniform(0, 2 * math.pi)
    for phase in (turn, turn + math.pi):
        pedal = (-0.04 + 0.08 * math.cos(phase), 0.19 + 0.08 * math.sin(phase))
        canvas.limb(LEGS, [(-0.12, 0.54), (pedal[0] + 0.12, 0.38), pedal], 0.085, 0.05)
    canvas.limb(TOP, [(-0.12, 0.55), shoulder], 0.15, 0.14)
    canvas.limb(TOP, [shoulder, (0.08 + lean / 2, 0.66), (0.22, 0.58)], 0.06, 0.04)
    canvas.ellipse(SKIN, shoulder[0] + 0.05, 0.93, 0.05, 0.06)
    canvas.ellipse(HAIR, shoulder[0] + 0.045, 0.96, 0.06, 0.045)
    return canvas.sprite(close=3, discs=_WHEELS)


def _cyclist_along(rng: np.random.Generator) -> Sprite:
    """Seen from behind or from the front."""
    canvas = Canvas(112, 0.42, 5)
    canvas.ellipse(4, 0, 0.19, 0.022, 0.19)
    canvas.limb(4, [(-0.14, 0.58), (0.14, 0.58)], 0.025)
    canvas.limb(4, [(0, 0.2), (0, 0.56)], 0.03)
    turn = rng.uniform(-0.08, 0.08)
    for side in (-1, 1):
        canvas.limb(LEGS, [(side * 0.04, 0.54), (side * 0.085, 0.36 + side * turn), (side * 0.06, 0.17 + side * turn)],
                    0.09, 0.055)  # fmt: skip
    canvas.polygon(TOP, [(-0.12, 0.82), (0.12, 0.82), (0.085, 0.5), (-0.085, 0.5)])
    canvas.ellipse(TOP, 0, 0.82, 0.12, 0.04)
    for side in (-1, 1):
        canvas.limb(TOP, [(side * 0.12, 0.8), (side * 0.16, 0.68), (side * 0.13, 0.6)], 0.06, 0.045)
    if rng.random() < 0.4:
        canvas.polygon(HAIR, [(-0.07, 0.78), (0.07, 0.78), (0.06, 0.58), (-0.06, 0.58)])
    canvas.ellipse(SKIN, 0, 0.91, 0.05, 0.06)
    canvas.ellipse(HAIR, 0, 0.94, 0.056, 0.05)
    return canvas.sprite(close=3)


def _bicycle(rng: np.random.Generator) -> Sprite:
    canvas = Canvas(96, 1.9, 1, zoom=1.7)  # the same drawing, without the rider's upper half
    _bicycle_side(canvas, 0)
    return canvas.sprite(close=8, discs=_WHEELS)


# -- trees: shaded leaves, lit leaves, wood ------------------------------------------------------------------------


def _leafy(rng: np.random.Generator) -> Sprite:
    size = 144
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size
    up = 1 - y
    rough = _patch(rng, 1.1, size)
    detail = _patch(rng, 0.6, size)
    crown = np.full((size, size), -np.inf, np.float32)
    middle, low = rng.uniform(0.58, 0.66), rng.uniform(0.2, 0.34)
    for _ in range(rng.integers(5, 10)):
        cx, cy = rng.normal(0.5, 0.11), rng.normal(middle, 0.12)
        radius = rng.uniform(0.13, 0.26)
        crown = np.maximum(crown, 1 - np.hypot(x - cx, up - cy) / radius)
    edge = np.minimum(np.minimum(x, 1 - x), y) * 6
    crown = np.minimum(crown, edge - 0.7) - np.clip(low - up, 0, 1) * 6
    foliage = np.clip((crown + 0.22 * rough + 0.12 * detail - 0.02) / 0.1, 0, 1) * np.clip(edge * 2, 0, 1)
    holes = np.clip((_patch(rng, 0.8, size) - rng.uniform(1.3, 2.0)) * 2, 0, 1)
    foliage *= 1 - holes
    trunk = np.clip((0.5 * rng.uniform(0.03, 0.05) - np.abs(x - 0.5)) * size + 0.5, 0, 1) * (up < middle)
    lit = np.clip(0.45 + 0.22 * detail + 0.9 * (up - middle) + 0.2 * rough, 0, 1)
    parts = np.stack([foliage * (1 - lit), foliage * lit, trunk * (1 - foliage)])
    return build(parts, np.clip(foliage + trunk, 0, 1), 1.0)


def _conifer(rng: np.random.Generator) -> Sprite:
    height, width = 144, 72
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    up, across = 1 - y / height, np.abs(x / width - 0.5) * 2
    steps = 1 - 0.22 * np.abs(((up * rng.integers(6, 11)) % 1) - 0.2)
    outline = (1 - up) ** rng.uniform(0.55, 1.0) * steps * rng.uniform(0.75, 0.95)
    detail = _patch(rng, 0.7, height)[:, :width]
    foliage = np.clip((outline + 0.12 * detail - across) * 8, 0, 1) * (up > 0.06) * (across < 0.98)
    trunk = (across < 0.07).astype(np.float32) * (up < 0.1)
    lit = np.clip(0.4 + 0.25 * detail, 0, 1)
    parts = np.stack([foliage * (1 - lit), foliage * lit, trunk * (1 - foliage)])
    return build(parts, np.clip(foliage + trunk, 0, 1), width / height)


def _bare(rng: np.random.Generator) -> Sprite:
    """Return a tree in winter; the label covers the crown as annotators outline it."""
    canvas = Canvas(176, 0.9, 3)

    def grow(x: float, y: float, angle: float, length: float, width: float, depth: int) -> None:
        end = (x + math.sin(angle) * length, y + math.cos(angle) * length)
        canvas.limb(2, [(x, y), end], width, width * 0.7)
        if depth == 0 or end[1] > 0.99:
            return
        for _ in range(3):
            turn = angle * 0.85 + rng.normal(0, 0.4)
            grow(*end, turn, length * rng.uniform(0.7, 0.98), width * 0.58, depth - 1)

    grow(0, 0, rng.normal(0, 0.03), rng.uniform(0.18, 0.23), rng.uniform(0.022, 0.03), 6)
    sprite = canvas.sprite()
    wood = sprite.parts[0]
    dense = wood[2]
    for _ in range(3):
        dense = (
            dense + np.roll(dense, 2, 0) + np.roll(dense, -2, 0) + np.roll(dense, 2, 1) + np.roll(dense, -2, 1)
        ) / 5
    dense[:, :8] = dense[:, -8:] = dense[:8] = dense[-8:] = 0
    twigs = 0.5 * np.clip(dense * 2 - 0.05, 0, 0.7) * (1 - wood[2])
    grain = np.clip(0.5 + 0.5 * _patch(rng, 0.3, 256)[: twigs.shape[0], : twigs.shape[1]], 0, 1)
    parts = np.stack([twigs * grain, np.zeros_like(twigs), wood[2]])
    label = np.clip(dense * 2.6 + 0.3 * (grain - 0.5), 0, 1)
    return build(parts, np.maximum(label, wood[2]), 0.9)


def _shrubs(rng: np.random.Generator) -> Sprite:
    """Return a wide row of bushes and small trees, as it closes gaps and the end of a street."""
    height, width = 72, 252
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    up = 1 - y / height
    column = _patch(rng, 1.3, 256)[0, :width]
    detail, rough = _patch(rng, 0.6, 256)[:height, :width], _patch(rng, 1.0, 256)[:height, :width]
    ends = np.clip(np.minimum(x, width - 1 - x) / 30, 0, 1)
    top = (0.62 + 0.16 * column[None]) * np.sqrt(ends)
    foliage = np.clip((top + 0.05 * detail + 0.06 * rough - up) * 12, 0, 1) * np.clip(y / 4, 0, 1)
    lit = np.clip(0.42 + 0.22 * detail + 0.2 * rough, 0, 1)
    parts = np.stack([foliage * (1 - lit), foliage * lit, np.zeros_like(lit)])
    return build(parts, foliage, width / height)


def _patch(rng: np.random.Generator, roughness: float, size: int) -> Array:
    field = np.roll(noise.fractal(roughness, 3), tuple(rng.integers(0, noise.SIZE, 2)), (0, 1))
    return field[:size, :size]


# -- signs: face, border, mark, second mark ------------------------------------------------------------------------

FACE, BORDER, MARK, LAMP = range(4)


def _sign_shapes(rng: np.random.Generator) -> dict[str, list[Sprite]]:
    shapes: dict[str, list[Sprite]] = {"round": [], "triangle": [], "board": [], "arrow_board": [], "lights": []}
    for _ in range(4):
        canvas = Canvas(48, 1.0, 4)
        canvas.ellipse(BORDER, 0, 0.5, 0.5, 0.5)
        canvas.ellipse(FACE, 0, 0.5, 0.38, 0.38)
        _marks(canvas, rng, 0.0, 0.5, 0.2)
        shapes["round"].append(canvas.sprite())
        canvas = Canvas(48, 1.1, 4)
        canvas.polygon(BORDER, [(-0.55, 0.02), (0.55, 0.02), (0, 0.98)])
        canvas.polygon(FACE, [(-0.36, 0.12), (0.36, 0.12), (0, 0.76)])
        _marks(canvas, rng, 0.0, 0.32, 0.12)
        shapes["triangle"].append(canvas.sprite())
        for name, aspect in (("board", rng.choice([0.7, 1.0, 1.5])), ("arrow_board", rng.choice([1.4, 2.2, 3.0]))):
            canvas = Canvas(64, float(aspect), 4)
            half = aspect / 2
            canvas.polygon(BORDER, [(-half, 0), (half, 0), (half, 1), (-half, 1)])
            inset = 0.05
            canvas.polygon(FACE, [(-half + inset, inset), (half - inset, inset), (half - inset, 1 - inset),
                                  (-half + inset, 1 - inset)])  # fmt: skip
            rows = rng.integers(2, 5)
            for row in range(rows):
                _text(canvas, rng, -half + 0.12, half - 0.12, 0.85 - 0.75 * row / rows, 0.4 / rows)
            shapes[name].append(canvas.sprite())
    for lit in range(3):
        canvas = Canvas(80, 0.42, 4)
        canvas.polygon(FACE, [(-0.2, 0), (0.2, 0), (0.2, 1), (-0.2, 1)])
        for lamp in range(3):
            canvas.ellipse(LAMP if lamp == lit else MARK, 0, 0.81 - 0.31 * lamp, 0.12, 0.12)
        shapes["lights"].append(canvas.sprite())
    return shapes


def _marks(canvas: Canvas, rng: np.random.Generator, x: float, y: float, size: float) -> None:
    for _ in range(rng.integers(1, 4)):
        a, b = rng.uniform(-size, size, 2), rng.uniform(-size, size, 2)
        canvas.limb(MARK, [(x + a[0], y + a[1]), (x + b[0], y + b[1])], size * rng.uniform(0.3, 0.6))


def _text(canvas: Canvas, rng: np.random.Generator, left: float, right: float, top: float, size: float) -> None:
    x = left
    stop = left + (right - left) * rng.uniform(0.5, 1.0)
    while x < stop:
        width = size * rng.uniform(0.3, 0.8)
        low, high = top - size * rng.uniform(0.7, 1.0), top - size * rng.uniform(0.0, 0.2)
        canvas.polygon(MARK, [(x, low), (min(x + width, stop), low), (min(x + width, stop), high), (x, high)])
        x += width + size * (0.25 if rng.random() < 0.8 else 0.9)


# -- the atlas -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Atlas:
    """All sprites, and which of them belong to what name."""

    sprites: tuple[Sprite, ...]
    names: dict[str, tuple[int, ...]]


@cache
def atlas() -> Atlas:
    """Return the atlas; the first call of a process draws it."""
    rng = np.random.Generator(np.random.PCG64(2024))
    drawings: dict[str, list[Sprite]] = {}

    def several(name: str, count: int, draw: Callable[[np.random.Generator], Sprite]) -> None:
        drawings[name] = [draw(rng) for _ in range(count)]

    several("person", 28, _person)
    several("cyclist_side", 8, _cyclist_side)
    several("cyclist_along", 10, _cyclist_along)
    several("bicycle", 1, _bicycle)
    several("leafy", 10, _leafy)
    several("conifer", 4, _conifer)
    several("bare", 6, _bare)
    several("shrubs", 5, _shrubs)
    drawings |= _sign_shapes(rng)
    sprites: list[Sprite] = []
    names: dict[str, tuple[int, ...]] = {}
    for name, variants in drawings.items():
        names[name] = tuple(range(len(sprites), len(sprites) + len(variants)))
        sprites += variants
    return Atlas(tuple(sprites), names)
