"""Convex bodies: houses, walls, hedges, and vehicles put together from two of them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from segmodels.data.streets.classes import BUILDING, CAR, TREE
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.scene import Solid

Plane = tuple[float, float, float, float]

FACADE, MASONRY, HEDGE, COACHWORK, GLASSHOUSE, BOX_BODY = range(6)

# Columns of `Solid.paint` of a facade.
WALL, ROOF, FASCIA, FRAME = 0, 3, 6, 9
PITCH, OPENING, STOREY, GROUND_FLOOR, SILL, HEAD, SHOP, GLASS, SEED, EAVES, ROUGH, BANDS, COURSE = range(12, 25)
# Columns of `Solid.paint` of a vehicle; the paint itself comes first.
LENGTH, WIDTH, BELT, HEIGHT, FRONT_AXLE, REAR_AXLE, WHEEL, LAMPS, GLAZED, TINT = range(3, 13)
PAINT_COLUMNS = 25


def profile(points: Sequence[tuple[float, float]]) -> list[Plane]:
    """Return planes through the edges of a polygon in (l, y), counter-clockwise, extruded across."""
    planes = []
    for (l0, y0), (l1, y1) in zip(points, [*points[1:], points[0]], strict=True):
        length = math.hypot(l1 - l0, y1 - y0)
        n_l, n_y = (y1 - y0) / length, -(l1 - l0) / length
        planes.append((n_l, n_y, 0.0, n_l * l0 + n_y * y0))
    return planes


def sides(low: float, high: float, y_low: float, y_high: float) -> list[Plane]:
    """Return two planes across, `low` half wide at `y_low` and `high` at `y_high`."""
    length = math.hypot(y_high - y_low, low - high)
    n_y, n_w = (low - high) / length, (y_high - y_low) / length
    c = n_y * y_low + n_w * low
    return [(0.0, n_y, n_w, c), (0.0, n_y, -n_w, c)]


def house(
    x: float, z: float, along: tuple[float, float], flip: bool, width: float, depth: float, eaves: float,
    ridge: float, gable: bool, paint: tuple[float, ...],
) -> Solid:  # fmt: skip
    """Return a building whose front stands on (x, z), `width` long; `ridge` is the height of its roof."""
    planes: list[Plane] = [(0, 0, 1, 0), (0, 0, -1, depth), (1, 0, 0, width), (-1, 0, 0, 0)]
    if ridge <= 0:
        planes.append((0, 1, 0, eaves))
    else:
        run = (width if gable else depth) / 2
        length = math.hypot(run, ridge)
        n, up = ridge / length, run / length
        if gable:
            planes += [(n, up, 0, up * eaves + n * width), (-n, up, 0, up * eaves)]
        else:
            planes += [(0, up, n, up * eaves), (0, up, -n, up * eaves + n * depth)]
    box = (0, width, 0, eaves + max(ridge, 0), -depth, 0)
    return Solid(BUILDING, FACADE, tuple(planes), box, x, z, along, flip, paint=paint)


def block(
    label: int, material: int, x: float, z: float, along: tuple[float, float], length: float, height: float,
    thickness: float, color: Color, lift: float = 0.0,
) -> Solid:  # fmt: skip
    """Return a plain box: a garden wall, a hedge, a chimney."""
    half = thickness / 2
    planes = ((0, 0, 1, half), (0, 0, -1, half), (1, 0, 0, length), (-1, 0, 0, 0), (0, 1, 0, lift + height),
              (0, -1, 0, -lift))  # fmt: skip
    box = (0, length, lift, lift + height, -half, half)
    return Solid(label, material, planes, box, x, z, along, paint=color)


def hedge(x: float, z: float, along: tuple[float, float], length: float, height: float, color: Color) -> Solid:
    return block(TREE, HEDGE, x, z, along, length, height, 0.8, color)


_PAINTS: tuple[tuple[Color, float], ...] = (
    ((0.015, 0.016, 0.018), 0.24),
    ((0.25, 0.26, 0.28), 0.20),
    ((0.10, 0.11, 0.12), 0.14),
    ((0.02, 0.04, 0.12), 0.14),
    ((0.35, 0.02, 0.02), 0.10),
    ((0.55, 0.55, 0.53), 0.08),
    ((0.02, 0.09, 0.05), 0.04),
    ((0.16, 0.10, 0.05), 0.03),
    ((0.10, 0.22, 0.30), 0.03),
)


def _paint(dice: Dice) -> Color:
    pick = dice.unit()
    for color, share in _PAINTS:
        pick -= share
        if pick < 0:
            return dice.vary(color, 0.35)
    return dice.vary((0.5, 0.35, 0.04), 0.3)


def vehicle(
    dice: Dice, x: float, z: float, along: tuple[float, float], instance: int, velocity: tuple[float, float]
) -> list[Solid]:
    """Return a car, van, lorry or bus with its middle on (x, z), facing `along`."""
    kind = dice.unit()
    lamps = 1.0 if dice.chance(0.25) else 0.0
    tint = dice.uniform(0.005, 0.03)

    def solid(material: int, planes: list[Plane], box: Sequence[float], paint: Sequence[float]) -> Solid:
        low_l, high_l, low_y, high_y, half = box
        return Solid(CAR, material, tuple(planes), (low_l, high_l, low_y, high_y, -half, half), x, z, along,
                     instance=instance, velocity=velocity, paint=tuple(paint))  # fmt: skip

    if kind < 0.84:
        length, half = dice.uniform(3.6, 4.7), dice.uniform(0.82, 0.92)
        tall = dice.chance(0.2)
        belt = dice.uniform(0.86, 0.95) + 0.14 * tall
        height = dice.uniform(1.40, 1.50) + 0.28 * tall
        wheel = 0.31 + 0.04 * tall
        front, rear = length / 2, -length / 2
        saloon = not tall and dice.chance(0.35)
        paint = (*_paint(dice), length, half, belt, height, front - 0.75, rear + 0.75, wheel, lamps, 0.0, tint)
        bonnet = length * dice.uniform(0.22, 0.27)
        body = profile([(front, 0.0), (front, 0.66), (front - bonnet, belt), (rear + 0.12, belt + 0.02),
                        (rear, belt - 0.18), (rear, 0.0)])  # fmt: skip
        screen = front - bonnet + 0.1
        tail = rear + (0.75 if saloon else 0.08)
        slant = dice.uniform(0.5, 0.7) if saloon else dice.uniform(0.15, 0.4)
        cabin = profile([(screen, belt - 0.04), (screen - dice.uniform(0.65, 0.85), height), (tail + slant, height),
                         (tail, belt - 0.04)])  # fmt: skip
        return [
            solid(COACHWORK, body[:5] + sides(half, half, 0, 1), (rear, front, 0, belt + 0.02, half), paint),
            solid(GLASSHOUSE, cabin + sides(half - 0.04, half - 0.2, belt, height),
                  (tail, screen, belt - 0.04, height, half), paint),
        ]  # fmt: skip
    if kind < 0.96:
        length, half, height = dice.uniform(4.6, 5.8), dice.uniform(0.9, 1.0), dice.uniform(1.9, 2.5)
        belt = 1.15
        front, rear = length / 2, -length / 2
        color = dice.vary((0.6, 0.6, 0.58), 0.2) if dice.chance(0.6) else _paint(dice)
        paint = (*color, length, half, belt, height, front - 0.85, rear + 0.9, 0.34, lamps, 1.0, tint)
        shell = profile([(front, 0.0), (front, 0.8), (front - 0.6, belt), (front - 1.4, height), (rear, height),
                         (rear, 0.0)])  # fmt: skip
        return [solid(BOX_BODY, shell[:5] + sides(half, half - 0.06, 0, height), (rear, front, 0, height, half), paint)]
    bus = dice.chance(0.5)
    length = dice.uniform(9, 11.5) if bus else dice.uniform(6, 9)
    half, height = 1.22, dice.uniform(2.9, 4.2) if bus else dice.uniform(2.9, 3.6)
    front, rear = length / 2, -length / 2
    color = dice.vary(dice.choice(((0.35, 0.03, 0.03), (0.1, 0.2, 0.4), (0.5, 0.5, 0.48), (0.1, 0.3, 0.15))), 0.3)
    paint = (*color, length, half, 1.35, height, front - 1.6, rear + 1.9, 0.48, lamps, 2.0 if bus else 1.0, tint)
    shell = profile([(front, 0.0), (front, 1.3), (front - 0.15, height), (rear, height), (rear, 0.0)])
    return [solid(BOX_BODY, shell[:4] + sides(half, half, 0, height), (rear, front, 0, height, half), paint)]
