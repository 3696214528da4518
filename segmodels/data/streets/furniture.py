"""Fills a street: trees, fences, hedges and walls here, `signs` and `traffic` the rest."""

from __future__ import annotations

import math

from segmodels.data.streets import bodies, signs, traffic
from segmodels.data.streets.bodies import MASONRY
from segmodels.data.streets.classes import BUILDING, TREE
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.plan import Plan, Side
from segmodels.data.streets.scene import KERB_HEIGHT, Billboard, Fence, Scene
from segmodels.data.streets.sprites import atlas

_LEAVES: tuple[tuple[Color, Color], ...] = (
    ((0.02, 0.04, 0.01), (0.09, 0.15, 0.03)), ((0.03, 0.045, 0.012), (0.14, 0.18, 0.05)),
    ((0.02, 0.03, 0.015), (0.07, 0.10, 0.05)), ((0.07, 0.045, 0.015), (0.25, 0.16, 0.04)),
    ((0.06, 0.03, 0.012), (0.20, 0.09, 0.03)), ((0.04, 0.05, 0.02), (0.18, 0.20, 0.07)),
)  # fmt: skip


def furnish(dice: Dice, scene: Scene, plan: Plan) -> None:
    """Add everything that is not road, building or sky."""
    season = dice.unit()
    lamps = signs.LampStyle(dice)
    for side in plan.sides:
        _boundaries(dice, scene, side)
        _trees(dice, scene, side, season)
        signs.lamps(dice, scene, side, lamps)
        signs.signs(dice, scene, side)
        traffic.parked(dice, scene, plan, side)
        traffic.pedestrians(dice, scene, side)
    _backdrop(dice, scene, plan, season)
    signs.traffic_lights(dice, scene, plan)
    traffic.moving(dice, scene, plan)
    traffic.cyclists(dice, scene, plan)


def _tree(dice: Dice, scene: Scene, x: float, z: float, height: float, season: float) -> None:
    pick = dice.unit()
    kind = "conifer" if pick < 0.12 else ("bare" if pick < 0.12 + 0.88 * max(0.0, 1.3 * season - 0.2) else "leafy")
    sprite = dice.choice(atlas().names[kind])
    dark, lit = dice.choice(_LEAVES)
    wood = dice.vary((0.045, 0.036, 0.03), 0.5)
    if kind == "bare":
        dark = dice.vary((0.08, 0.065, 0.055), 0.5)
    palette = (dice.vary(dark, 0.4), dice.vary(lit, 0.4), wood)
    width = height * atlas().sprites[sprite].aspect * dice.uniform(0.8, 1.15)
    scene.billboards.append(
        Billboard(TREE, sprite, palette, x, z, 0.0, height, width, scene.new_instance(), dice.chance(0.5))
    )


def _trees(dice: Dice, scene: Scene, side: Side, season: float) -> None:
    road = scene.road
    if side.kind == "city":
        spots = dice.integer(0, 2) if dice.chance(0.6) else dice.integer(2, 6)
        u = side.half_width + side.pavement * 0.25
        spread = 0.0
    elif side.kind == "homes":
        spots = dice.integer(1, 7)
        u, spread = side.half_width + side.pavement + 1.0, side.setback * 0.8
    else:
        spots = dice.integer(2, 9)
        u, spread = side.half_width + side.pavement + 1.5, side.setback * 0.8
    s = dice.uniform(6, 22)
    for _ in range(spots):
        if side.free(s):
            x, z = road.place(side.direction * (u + spread * dice.unit()), s)
            _tree(dice, scene, x, z, dice.uniform(4.5, 11.5), season)
        s += dice.uniform(4, 18)


def _backdrop(dice: Dice, scene: Scene, plan: Plan, season: float) -> None:
    """Tree lines behind the houses and at the end of the street."""
    names = atlas().names
    spots = []
    for _ in range(dice.integer(2, 5)):
        u = dice.uniform(-45, 45)
        spots.append((u, plan.end + 5 if abs(u) < 12 else plan.end * dice.uniform(0.8, 1.05)))
    for direction in (-1, 1):  # far to the sides, where a camera that turns would see a bare horizon
        s = dice.uniform(0, 15)
        while s < plan.end:
            spots.append((direction * dice.uniform(48, 75), s))
            s += dice.uniform(18, 30)
    for u, s in spots:
        x, z = scene.road.place(u, s)
        height = dice.uniform(5, 13)
        dark, lit = dice.choice(_LEAVES[:3]) if season < 0.5 else ((0.05, 0.042, 0.035), (0.12, 0.11, 0.09))
        sprite = dice.choice(names["shrubs"])
        palette = (dice.vary(dark, 0.4), dice.vary(lit, 0.4), dark)
        scene.billboards.append(Billboard(TREE, sprite, palette, x, z, 0.0, height, height * dice.uniform(2.5, 4.5),
                                          0, dice.chance(0.5)))  # fmt: skip
    for _ in range(dice.integer(0, 4)):
        x, z = scene.road.place(dice.uniform(-14, 14), plan.end * dice.uniform(0.85, 1.0))
        _tree(dice, scene, x, z, dice.uniform(6, 13), season)


def _boundaries(dice: Dice, scene: Scene, side: Side) -> None:
    """Garden walls, hedges and fences along the pavement, and railings at the kerb."""
    road = scene.road
    edge = side.half_width + side.pavement + 0.3
    if side.kind != "city":
        s = dice.uniform(-8, 4)
        while s < 70:
            end = s + dice.uniform(5, 26)
            blocked = next((g for g in side.gaps if s < g[1] and end > g[0]), None)
            if blocked:
                if blocked[0] - s < 3:
                    s = blocked[1]
                    continue
                end = blocked[0]
            _boundary(dice, scene, side.direction * edge, s, end)
            s = end + dice.uniform(0, 4)
    rails = {"city": 0.3, "homes": 0.1, "park": 0.2, "open": 0.3}[side.kind]
    if dice.chance(rails):
        s = dice.uniform(3, 18)
        end = s + dice.uniform(5, 32)
        if side.free((s + end) / 2, (end - s) / 2):
            color = dice.vary(
                dice.choice(((0.3, 0.3, 0.3), (0.02, 0.02, 0.02), (0.45, 0.45, 0.43), (0.02, 0.05, 0.12))), 0.4
            )
            u = side.direction * (side.half_width + 0.25)
            fence = Fence(color, road.place(u, s), road.place(u, end), dice.uniform(0.95, 1.2), KERB_HEIGHT,
                          dice.uniform(0.1, 0.16), dice.uniform(0.02, 0.035), (0.1, 0.95), 0.0)  # fmt: skip
            scene.fences.append(fence)


def _boundary(dice: Dice, scene: Scene, u: float, s: float, end: float) -> None:
    start, stop = scene.road.place(u, s), scene.road.place(u, end)
    length = math.hypot(stop[0] - start[0], stop[1] - start[1])
    along = ((stop[0] - start[0]) / length, (stop[1] - start[1]) / length)
    pick = dice.unit()
    if pick < 0.25:
        color = dice.vary(dice.choice(((0.24, 0.11, 0.07), (0.36, 0.30, 0.22), (0.28, 0.27, 0.25))), 0.3)
        scene.solids.append(bodies.block(BUILDING, MASONRY, *start, along, length, dice.uniform(0.6, 1.9), 0.3, color))
    elif pick < 0.5:
        color = dice.vary(dice.choice(_LEAVES)[1], 0.3)
        scene.solids.append(bodies.hedge(*start, along, length, dice.uniform(0.8, 2.4), color))
    elif pick < 0.85:
        wooden = dice.chance(0.45)
        if wooden:
            color = dice.vary(dice.choice(((0.16, 0.10, 0.06), (0.25, 0.2, 0.15), (0.09, 0.06, 0.04))), 0.3)
            fence = Fence(color, start, stop, dice.uniform(1.0, 1.9), KERB_HEIGHT, dice.uniform(0.12, 0.2), 0.11,
                          (0.15, 0.85), dice.uniform(0.5, 1.0))  # fmt: skip
        else:
            color = dice.vary(
                dice.choice(((0.02, 0.02, 0.02), (0.12, 0.13, 0.13), (0.02, 0.06, 0.04), (0.4, 0.4, 0.4))), 0.4
            )
            fence = Fence(color, start, stop, dice.uniform(0.9, 2.2), KERB_HEIGHT, dice.uniform(0.1, 0.2),
                          dice.uniform(0.02, 0.035), (0.08, 0.92), dice.choice((0.0, 0.0, 0.15)))  # fmt: skip
        scene.fences.append(fence)
