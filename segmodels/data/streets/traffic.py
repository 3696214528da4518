"""What moves, or could: vehicles, pedestrians and cyclists."""

from __future__ import annotations

import math

from segmodels.data.streets import bodies
from segmodels.data.streets.classes import BICYCLIST, CAR, PEDESTRIAN
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.plan import Plan, Side
from segmodels.data.streets.scene import KERB_HEIGHT, Billboard, Scene
from segmodels.data.streets.sprites import atlas

_CLOTHES: tuple[Color, ...] = (
    (0.012, 0.012, 0.014), (0.015, 0.015, 0.02), (0.02, 0.025, 0.05), (0.03, 0.03, 0.03), (0.10, 0.09, 0.07),
    (0.12, 0.015, 0.015), (0.2, 0.2, 0.19), (0.025, 0.045, 0.09), (0.03, 0.04, 0.025), (0.05, 0.03, 0.02),
    (0.01, 0.01, 0.012), (0.02, 0.02, 0.022),
)  # fmt: skip
_BRIGHT: tuple[Color, ...] = ((0.5, 0.7, 0.03), (0.7, 0.25, 0.02), (0.5, 0.02, 0.02), (0.6, 0.6, 0.58))


def _along(scene: Scene, s: float) -> tuple[float, float]:
    angle = scene.road.heading(s)
    return math.sin(angle), math.cos(angle)


def _clear_of_camera(scene: Scene, x: float, z: float) -> bool:
    return abs(z) > 5.5 or abs(x - scene.camera.x) > 1.6


def parked(dice: Dice, scene: Scene, plan: Plan, side: Side) -> None:
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
    taken = any(abs(x - o.x) < 1.9 and abs(z - o.z) < 5 for o in scene.solids if o.label == CAR)
    if taken or not _clear_of_camera(scene, x, z):
        return
    along = _along(scene, s)
    turned = dice.normal(0, 0.03)
    ax = (along[0] + turned * along[1]) * facing
    az = (along[1] - turned * along[0]) * facing
    norm = math.hypot(ax, az)
    ax, az = ax / norm, az / norm
    velocity = (ax * speed, az * speed)
    scene.solids += bodies.vehicle(dice, x, z, (ax, az), scene.new_instance(), velocity)


def moving(dice: Dice, scene: Scene, plan: Plan) -> None:
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


def _skin(dice: Dice) -> Color:
    return dice.vary(dice.choice(((0.32, 0.19, 0.14), (0.28, 0.16, 0.11), (0.12, 0.06, 0.04))), 0.2)


def _garment(dice: Dice) -> Color:
    return dice.vary(dice.choice(_BRIGHT if dice.chance(0.1) else _CLOTHES), 0.4)


def pedestrians(dice: Dice, scene: Scene, side: Side) -> None:
    if dice.chance(0.12):
        return
    groups = dice.integer(0, {"city": 7, "homes": 4, "park": 4, "open": 5}[side.kind] + 1)
    for _ in range(groups):
        s = 6 + 50 * dice.unit() ** 1.3
        u = side.half_width + side.pavement * dice.uniform(0.2, 0.9)
        walking = dice.choice((-1.3, 0.0, 1.3)) if dice.chance(0.8) else 0.0
        for _ in range(1 + dice.integer(0, 3) * dice.integer(0, 2)):
            _person(
                dice, scene, side.direction * (u + dice.normal(0, 0.25)), s + dice.normal(0, 0.5), KERB_HEIGHT, walking
            )
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


def cyclists(dice: Dice, scene: Scene, plan: Plan) -> None:
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
        stand = dice.choice(plan.sides)
        s = dice.uniform(6, 25)
        for _ in range(dice.integer(1, 4)):
            sprite = names["bicycle"][0]
            x, z = scene.road.place(stand.direction * (plan.half_width + stand.pavement * 0.8), s)
            scene.billboards.append(Billboard(BICYCLIST, sprite, (dice.vary((0.05, 0.05, 0.06), 0.8),), x, z,
                                              KERB_HEIGHT, 1.03, 1.03 * atlas().sprites[sprite].aspect,
                                              scene.new_instance(), dice.chance(0.5)))  # fmt: skip
            s += dice.uniform(0.4, 1.0)
