"""Fills a street: vehicles, people, trees, lamps, lights, signs, fences, hedges and walls."""

from __future__ import annotations

import math

from segmodels.data.streets import bodies
from segmodels.data.streets.bodies import MASONRY
from segmodels.data.streets.classes import BICYCLIST, BUILDING, PEDESTRIAN, POLE, SIGN, TREE
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.plan import Plan, Side
from segmodels.data.streets.scene import KERB_HEIGHT, Bar, Billboard, Fence, Scene
from segmodels.data.streets.sprites import atlas

_WHITE, _BLACK, _RED, _BLUE = (0.75, 0.75, 0.73), (0.01, 0.01, 0.01), (0.5, 0.015, 0.015), (0.01, 0.06, 0.35)
_GREEN, _YELLOW = (0.005, 0.12, 0.05), (0.6, 0.45, 0.02)
# Face, border, mark, lamp.
_SIGN_COLORS: dict[str, tuple[tuple[Color, ...], ...]] = {
    "round": ((_WHITE, _RED, _BLACK, _BLACK), (_BLUE, _BLUE, _WHITE, _WHITE), (_BLUE, _RED, _RED, _RED)),
    "triangle": ((_WHITE, _RED, _BLACK, _BLACK),),
    "board": ((_WHITE, _BLACK, _BLACK, _BLACK), (_BLUE, _WHITE, _WHITE, _WHITE), (_YELLOW, _BLACK, _BLACK, _BLACK)),
    "arrow_board": ((_GREEN, _WHITE, _WHITE, _WHITE), (_BLUE, _WHITE, _WHITE, _WHITE), (_WHITE, _BLACK, _BLACK, _BLACK)),
}  # fmt: skip
_LAMPS: tuple[Color, ...] = ((2.5, 0.15, 0.08), (2.2, 1.1, 0.1), (0.1, 2.3, 0.9))
_CLOTHES: tuple[Color, ...] = (
    (0.012, 0.012, 0.014), (0.015, 0.015, 0.02), (0.02, 0.025, 0.05), (0.03, 0.03, 0.03), (0.10, 0.09, 0.07),
    (0.12, 0.015, 0.015), (0.2, 0.2, 0.19), (0.025, 0.045, 0.09), (0.03, 0.04, 0.025), (0.05, 0.03, 0.02),
    (0.01, 0.01, 0.012), (0.02, 0.02, 0.022),
)  # fmt: skip
_BRIGHT: tuple[Color, ...] = ((0.5, 0.7, 0.03), (0.7, 0.25, 0.02), (0.5, 0.02, 0.02), (0.6, 0.6, 0.58))
_LEAVES: tuple[tuple[Color, Color], ...] = (
    ((0.02, 0.04, 0.01), (0.09, 0.15, 0.03)), ((0.03, 0.045, 0.012), (0.14, 0.18, 0.05)),
    ((0.02, 0.03, 0.015), (0.07, 0.10, 0.05)), ((0.07, 0.045, 0.015), (0.25, 0.16, 0.04)),
    ((0.06, 0.03, 0.012), (0.20, 0.09, 0.03)), ((0.04, 0.05, 0.02), (0.18, 0.20, 0.07)),
)  # fmt: skip


def furnish(dice: Dice, scene: Scene, plan: Plan) -> None:
    """Adds everything that is not road, building or sky."""
    season = dice.unit()
    lamps = _LampStyle(dice)
    for side in plan.sides:
        _boundaries(dice, scene, side)
        _trees(dice, scene, side, season)
        _lamps(dice, scene, side, lamps)
        _signs(dice, scene, side)
        _parked(dice, scene, plan, side)
        _people(dice, scene, side)
    _backdrop(dice, scene, plan, season)
    _lights(dice, scene, plan)
    _traffic(dice, scene, plan)
    _cyclists(dice, scene, plan)


def _along(scene: Scene, s: float) -> tuple[float, float]:
    angle = scene.road.heading(s)
    return math.sin(angle), math.cos(angle)


# -- vehicles ------------------------------------------------------------------------------------------------------


def _clear_of_camera(scene: Scene, x: float, z: float) -> bool:
    return abs(z) > 5.5 or abs(x - scene.camera.x) > 1.6


def _parked(dice: Dice, scene: Scene, plan: Plan, side: Side) -> None:
    chance = {"city": 0.3, "homes": 0.5, "park": 0.25, "open": 0.3}[side.kind]
    if dice.chance(chance):
        density = dice.uniform(0.25, 0.95)
        u = side.direction * (plan.half_width - dice.uniform(0.9, 1.1))
        s = dice.uniform(2, 12)
        while s < 65:
            if dice.chance(density) and side.free(s, 3):
                facing = 1 if (side.direction == plan.hand) == dice.chance(0.9) else -1
                _vehicle(dice, scene, u + dice.normal(0, 0.1), s, facing, 0.0)
            s += dice.uniform(5.4, 7.5) if s < 35 else dice.uniform(7, 14)
    if side.kind in ("open", "park") and side.setback > 8 and dice.chance(0.5):
        # A car park beside the road: cars that stand across it.
        row = side.direction * (plan.half_width + side.pavement + dice.uniform(3.5, 5))
        s = dice.uniform(5, 20)
        for _ in range(dice.integer(3, 9)):
            x, z = scene.road.place(row, s)
            direction = dice.choice((-1.0, 1.0))
            angle = dice.normal(0, 0.1)
            along = (direction * math.cos(angle), math.sin(angle))
            if side.free(s, 3):
                scene.solids += bodies.vehicle(dice, x, z, along, scene.new_instance(), (0.0, 0.0))
            s += dice.uniform(2.6, 3.4) * (1 if dice.chance(0.8) else 3)


def _vehicle(dice: Dice, scene: Scene, u: float, s: float, facing: int, speed: float) -> None:
    x, z = scene.road.place(u, s)
    if not _clear_of_camera(scene, x, z):
        return
    along = _along(scene, s)
    turned = dice.normal(0, 0.03)
    ax = (along[0] + turned * along[1]) * facing
    az = (along[1] - turned * along[0]) * facing
    norm = math.hypot(ax, az)
    ax, az = ax / norm, az / norm
    velocity = (ax * speed, az * speed)
    scene.solids += bodies.vehicle(dice, x, z, (ax, az), scene.new_instance(), velocity)


def _traffic(dice: Dice, scene: Scene, plan: Plan) -> None:
    own, other = plan.hand * plan.half_width * 0.45, -plan.hand * plan.half_width * 0.4
    s = dice.uniform(8, 34)
    for _ in range(dice.integer(0, 4)):
        _vehicle(dice, scene, own + dice.normal(0, 0.25), s, 1, dice.uniform(0, 12))
        s += dice.uniform(7, 25)
    s = dice.uniform(7, 42)
    for _ in range(dice.integer(0, 5)):
        _vehicle(dice, scene, other + dice.normal(0, 0.25), s, -1, dice.uniform(0, 13))
        s += dice.uniform(6.5, 22)
    if dice.chance(0.12):
        # One that turns in front of us.
        x, z = scene.road.place(dice.uniform(-3, 3), dice.uniform(8, 25))
        angle = dice.uniform(0.6, 2.5) * dice.choice((-1.0, 1.0))
        along = (math.sin(angle), math.cos(angle))
        speed = dice.uniform(1, 5)
        scene.solids += bodies.vehicle(dice, x, z, along, scene.new_instance(), (along[0] * speed, along[1] * speed))


# -- people --------------------------------------------------------------------------------------------------------


def _skin(dice: Dice) -> Color:
    return dice.vary(dice.choice(((0.32, 0.19, 0.14), (0.28, 0.16, 0.11), (0.12, 0.06, 0.04))), 0.2)


def _garment(dice: Dice) -> Color:
    return dice.vary(dice.choice(_BRIGHT if dice.chance(0.1) else _CLOTHES), 0.4)


def _people(dice: Dice, scene: Scene, side: Side) -> None:
    if dice.chance(0.12):
        return
    groups = dice.integer(0, {"city": 7, "homes": 4, "park": 4, "open": 5}[side.kind] + 1)
    for _ in range(groups):
        s = 6 + 50 * dice.unit() ** 1.3
        u = side.half_width + side.pavement * dice.uniform(0.2, 0.9)
        walking = dice.choice((-1.3, 0.0, 1.3)) if dice.chance(0.8) else 0.0
        for _ in range(1 + dice.integer(0, 3) * dice.integer(0, 2)):
            _person(dice, scene, side.direction * (u + dice.normal(0, 0.25)), s + dice.normal(0, 0.5), KERB_HEIGHT, walking)
    if dice.chance(0.15):
        _person(dice, scene, dice.uniform(-1, 1) * side.half_width, dice.uniform(7, 35), 0.0, 0.0)


def _person(dice: Dice, scene: Scene, u: float, s: float, lift: float, walking: float) -> None:
    x, z = scene.road.place(u, s)
    height = dice.normal(1.72, 0.08) if dice.chance(0.92) else dice.uniform(1.0, 1.4)
    sprite = dice.choice(atlas().names["person"])
    hair = dice.vary(dice.choice(((0.02, 0.015, 0.01), (0.10, 0.06, 0.03), (0.28, 0.2, 0.1), (0.3, 0.3, 0.3))), 0.3)
    palette = (_skin(dice), hair, _garment(dice), _garment(dice), _garment(dice))
    width = height * atlas().sprites[sprite].aspect * dice.uniform(0.9, 1.2)
    scene.billboards.append(Billboard(PEDESTRIAN, sprite, palette, x, z, lift, height, width, scene.new_instance(),
                                      dice.chance(0.5), (0.0, walking)))  # fmt: skip


def _cyclists(dice: Dice, scene: Scene, plan: Plan) -> None:
    names = atlas().names
    if dice.chance(0.6):
        for _ in range(dice.integer(1, 4)):
            side = dice.choice((-1, 1))
            s = 6 + 40 * dice.unit() ** 1.1
            x, z = scene.road.place(side * (plan.half_width - dice.uniform(0.4, 1.6)), s)
            crossing = dice.chance(0.22)
            if crossing:
                x += dice.uniform(-2, 2)
            sprite = dice.choice(names["cyclist_side" if crossing else "cyclist_along"])
            height = dice.normal(1.74, 0.06)
            speed = dice.uniform(2, 6) * (1 if side == plan.hand else -1)
            mirror = dice.chance(0.5)
            velocity = (-speed if mirror else speed, 0.0) if crossing else (0.0, speed)
            helmet = _garment(dice) if dice.chance(0.5) else (0.02, 0.015, 0.01)
            palette = (_skin(dice), helmet, _garment(dice), _garment(dice), dice.vary((0.03, 0.03, 0.035), 0.6))
            scene.billboards.append(Billboard(BICYCLIST, sprite, palette, x, z, 0.0, height,
                                              height * atlas().sprites[sprite].aspect, scene.new_instance(), mirror,
                                              velocity))  # fmt: skip
    if dice.chance(0.1):
        side = dice.choice(plan.sides)
        s = dice.uniform(6, 25)
        for _ in range(dice.integer(1, 4)):
            sprite = names["bicycle"][0]
            x, z = scene.road.place(side.direction * (plan.half_width + side.pavement * 0.8), s)
            scene.billboards.append(Billboard(BICYCLIST, sprite, (dice.vary((0.05, 0.05, 0.06), 0.8),), x, z,
                                              KERB_HEIGHT, 1.75, 1.75 * atlas().sprites[sprite].aspect,
                                              scene.new_instance(), dice.chance(0.5)))  # fmt: skip
            s += dice.uniform(0.4, 1.0)


# -- trees and boundaries ------------------------------------------------------------------------------------------


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
    scene.billboards.append(Billboard(TREE, sprite, palette, x, z, 0.0, height, width, scene.new_instance(), dice.chance(0.5)))


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
    for _ in range(dice.integer(3, 7)):
        s = plan.end * dice.uniform(0.5, 1.05)
        u = dice.uniform(-60, 60)
        if abs(u) < 12:
            s = plan.end + 5
        elif abs(u) < 28:
            s = max(s, plan.end * 0.8)
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
    rails = {"city": 0.3, "homes": 0.12, "park": 0.25, "open": 0.4}[side.kind]
    if dice.chance(rails):
        s = dice.uniform(3, 18)
        end = s + dice.uniform(5, 32)
        if side.free((s + end) / 2, (end - s) / 2):
            color = dice.vary(dice.choice(((0.3, 0.3, 0.3), (0.02, 0.02, 0.02), (0.45, 0.45, 0.43), (0.02, 0.05, 0.12))), 0.4)
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
            fence = Fence(color, start, stop, dice.uniform(1.0, 1.9), KERB_HEIGHT, dice.uniform(0.12, 0.2), 0.11, (0.15, 0.85),
                          dice.uniform(0.5, 1.0))  # fmt: skip
        else:
            color = dice.vary(dice.choice(((0.02, 0.02, 0.02), (0.12, 0.13, 0.13), (0.02, 0.06, 0.04), (0.4, 0.4, 0.4))), 0.4)
            fence = Fence(color, start, stop, dice.uniform(0.9, 2.2), KERB_HEIGHT, dice.uniform(0.1, 0.2),
                          dice.uniform(0.02, 0.035), (0.08, 0.92), dice.choice((0.0, 0.0, 0.15)))  # fmt: skip
        scene.fences.append(fence)


# -- poles, lights and signs ---------------------------------------------------------------------------------------


class _LampStyle:
    """Lamps of one street look alike."""

    def __init__(self, dice: Dice) -> None:
        self.color: Color = dice.vary(dice.choice(((0.2, 0.21, 0.21), (0.03, 0.04, 0.03), (0.35, 0.35, 0.34))), 0.4)
        self.height = dice.uniform(5, 10)
        self.arm = dice.uniform(0.6, 2.2) if dice.chance(0.7) else 0.0
        self.spacing = dice.uniform(14, 30)


def _pole(dice: Dice, scene: Scene, x: float, z: float, height: float, width: float, color: Color) -> int:
    instance = scene.new_instance()
    scene.bars.append(Bar(POLE, color, x, z, 0.0, height, width, 0.0, instance))
    return instance


def _lamps(dice: Dice, scene: Scene, side: Side, style: _LampStyle) -> None:
    if dice.chance(0.15):
        return
    s = dice.uniform(3, 4 + style.spacing)
    near_kerb = dice.chance(0.6)
    u = side.half_width + (0.5 if near_kerb else side.pavement - 0.3)
    while s < 95:
        x, z = scene.road.place(side.direction * u, s)
        instance = _pole(dice, scene, x, z, style.height, 0.17, style.color)
        inwards = -side.direction * style.arm
        scene.bars.append(Bar(POLE, style.color, x, z, style.height - 0.1, 0.1, style.arm + 0.05, inwards / 2, instance))
        scene.bars.append(Bar(POLE, (0.4, 0.4, 0.38), x, z, style.height - 0.12, 0.2, 0.6, inwards, instance))
        s += style.spacing
    for _ in range(dice.integer(0, 3)):  # bollards and plain posts
        s = dice.uniform(5, 30)
        x, z = scene.road.place(side.direction * (side.half_width + 0.35), s)
        if dice.chance(0.6):
            for _ in range(dice.integer(2, 7)):
                _pole(dice, scene, x, z, dice.uniform(0.9, 1.1), 0.13, dice.vary((0.03, 0.03, 0.03), 0.5))
                z += 1.6
        else:
            _pole(dice, scene, x, z, dice.uniform(2.5, 9), dice.uniform(0.08, 0.25), dice.vary((0.1, 0.09, 0.08), 0.5))


def _sign(
    dice: Dice, scene: Scene, kind: str, x: float, z: float, lift: float, height: float, instance: int | None = None
) -> None:
    sprite = dice.choice(atlas().names[kind])
    palette = tuple(dice.vary(c, 0.25) for c in dice.choice(_SIGN_COLORS[kind]))
    if dice.chance(0.2):  # its grey back
        palette = (dice.vary((0.14, 0.14, 0.14), 0.5),) * 4
    width = height * atlas().sprites[sprite].aspect
    # Just in front of the pole that carries it.
    scene.billboards.append(Billboard(SIGN, sprite, palette, x, z - 0.15, lift, height, width,
                                      instance or scene.new_instance()))  # fmt: skip


def _signs(dice: Dice, scene: Scene, side: Side) -> None:
    road = scene.road
    gray: Color = (0.22, 0.22, 0.22)
    for _ in range(dice.integer(0, 5)):
        s = 7 + 45 * dice.unit() ** 1.3
        x, z = road.place(side.direction * (side.half_width + dice.uniform(0.4, 0.9)), s)
        lift = dice.uniform(1.7, 2.7) if dice.chance(0.75) else dice.uniform(0.5, 1.5)
        kind = dice.choice(("round", "round", "triangle", "board"))
        size = dice.uniform(0.55, 0.85)
        _pole(dice, scene, x, z, lift + size, 0.09, gray)
        _sign(dice, scene, kind, x, z, lift, size)
        if dice.chance(0.3):
            _sign(dice, scene, dice.choice(("board", "round")), x, z, lift - 0.5, 0.45)
    if dice.chance(0.14):
        # A direction sign on two legs.
        x, z = road.place(side.direction * (side.half_width + 1.2), dice.uniform(10, 45))
        height = dice.uniform(1.0, 2.0)
        for leg in (-0.7, 0.7):
            _pole(dice, scene, x + leg, z, 1.8 + height, 0.12, gray)
        _sign(dice, scene, "arrow_board", x, z, 1.8, height)
    if dice.chance(0.06):
        # A board over the road on a gantry.
        s = dice.uniform(25, 60)
        height = dice.uniform(1.2, 2.2)
        x, z = road.place(side.direction * (side.half_width + 0.6), s)
        instance = _pole(dice, scene, x, z, 6.5 + height / 2, 0.3, gray)
        reach = side.half_width + 0.6
        scene.bars.append(Bar(POLE, gray, x, z, 6.2 + height / 2, 0.25, reach, -side.direction * reach / 2, instance))
        _sign(dice, scene, "arrow_board", x - side.direction * reach * 0.7, z, 5.8, height)
    if side.kind in ("city", "open"):
        for _ in range(dice.integer(0, 6)):  # signs that shops hang out
            s = 6 + 50 * dice.unit()
            if side.free(s):
                u = side.half_width + side.pavement + side.setback - 0.5
                x, z = road.place(side.direction * u, s)
                _sign(dice, scene, "board", x, z, dice.uniform(2.6, 4.2), dice.uniform(0.5, 1.2))


def _lights(dice: Dice, scene: Scene, plan: Plan) -> None:
    """Traffic lights on both sides of a crossing."""
    if not dice.chance(0.35):
        return
    s = dice.uniform(7, 38)
    lit = dice.integer(0, 3)
    names = atlas().names["lights"]
    for side in plan.sides:
        for distance in (0.0, dice.uniform(8, 16)) if dice.chance(0.5) else (0.0,):
            x, z = scene.road.place(side.direction * (side.half_width + 0.6), s + distance)
            _pole(dice, scene, x, z, 3.3, 0.13, (0.03, 0.03, 0.03))
            away = side.direction != plan.hand and dice.chance(0.5)
            lamp = (0.02, 0.02, 0.02) if away else _LAMPS[lit]
            palette = ((0.012, 0.012, 0.012), _BLACK, (0.03, 0.025, 0.02), lamp)
            height = dice.uniform(0.95, 1.15)
            scene.billboards.append(Billboard(SIGN, names[lit], palette, x, z - 0.15, dice.uniform(2.2, 2.7), height,
                                              height * 0.42, scene.new_instance(), emission=0.0 if away else 1.0))  # fmt: skip
