"""Invents a street: road, buildings, light and camera. `furniture.py` fills it with what stands and moves on it."""

from __future__ import annotations

import math

import numpy as np

from segmodels.data.streets import bodies, furniture
from segmodels.data.streets.bodies import MASONRY
from segmodels.data.streets.camera import Camera
from segmodels.data.streets.classes import BUILDING
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.plan import FIRST_S, Plan, Side
from segmodels.data.streets.scene import Light, Markings, Optics, Road, Scene, SideStreet

_WALLS: tuple[Color, ...] = (
    (0.22, 0.09, 0.05), (0.28, 0.13, 0.08), (0.36, 0.26, 0.15), (0.42, 0.34, 0.22), (0.55, 0.52, 0.46),
    (0.66, 0.64, 0.58), (0.30, 0.28, 0.25), (0.40, 0.37, 0.32), (0.17, 0.13, 0.10), (0.25, 0.25, 0.26),
    (0.58, 0.50, 0.34), (0.33, 0.17, 0.12),
)  # fmt: skip
_ROOFS: tuple[Color, ...] = ((0.09, 0.08, 0.08), (0.16, 0.08, 0.05), (0.12, 0.12, 0.13), (0.2, 0.12, 0.08))
_PAVINGS: tuple[Color, ...] = ((0.17, 0.165, 0.16), (0.24, 0.23, 0.21), (0.12, 0.12, 0.12), (0.24, 0.16, 0.13))
_FASCIAS: tuple[Color, ...] = (
    (0.02, 0.03, 0.10), (0.30, 0.02, 0.02), (0.02, 0.02, 0.02), (0.02, 0.12, 0.05), (0.50, 0.48, 0.42),
    (0.45, 0.30, 0.03), (0.08, 0.10, 0.25), (0.20, 0.04, 0.12), (0.05, 0.25, 0.30),
)  # fmt: skip


def make_scene(dice: Dice) -> Scene:
    """Return a scene of its own for every state of `dice`."""
    plan = _plan(dice)
    light, optics = _light(dice)
    road = _road(dice, plan)
    scene = Scene(_camera(dice, plan, road), 0.0, 0.0, road, light, optics)
    scene.speed = dice.uniform(2, 13) if dice.chance(0.8) else 0.0
    scene.turn = dice.normal(0, 0.05) if scene.speed else 0.0
    for side in plan.sides:
        _row_of_buildings(dice, scene, side)
    _end_of_street(dice, scene, plan)
    furniture.furnish(dice, scene, plan)
    return scene


def _plan(dice: Dice) -> Plan:
    mood = dice.unit()
    kinds: tuple[str, ...]
    if mood < 0.6:
        half_width, kinds = dice.uniform(3.2, 6.2), ("city", "city", "city", "city", "park")
    elif mood < 0.82:
        half_width, kinds = dice.uniform(2.9, 4.4), ("homes", "homes", "homes", "park", "city")
    else:
        half_width, kinds = dice.uniform(4.5, 8.5), ("open", "open", "park", "city")
    hand = -1 if dice.chance(0.75) else 1
    sides = []
    for direction in (-1, 1):
        kind = dice.choice(kinds)
        pavement = dice.uniform(1.5, 4.2) if kind == "city" else dice.uniform(1.3, 2.8)
        setback = {"city": 0.0, "homes": dice.uniform(2.5, 7), "park": dice.uniform(12, 30),
                   "open": dice.uniform(3, 16)}[kind]  # fmt: skip
        sides.append(Side(direction, kind, half_width, pavement, setback, []))
    end = dice.uniform(55, 170)
    return Plan(half_width, hand, (sides[0], sides[1]), end)


def _road(dice: Dice, plan: Plan) -> Road:
    streets = []
    for side in plan.sides:
        if dice.chance(0.5):
            street = SideStreet(side.direction, dice.uniform(4, 55), dice.uniform(2.5, 5))
            streets.append(street)
            side.gaps.append((street.s - street.half_width - 1.8, street.s + street.half_width + 1.8))
    crossing = dice.uniform(6, 45)
    width = plan.half_width
    lanes = (-width / 2, width / 2) if width > 5.5 else ()
    worn = dice.uniform(0.1, 0.9)
    markings = Markings(
        centre=dice.choice(("none", "dashed", "dashed", "dashed", "solid", "double")),
        dash=dice.choice(((6.0, 4.0), (6.0, 2.0), (9.0, 3.0), (4.0, 2.0))),
        lanes=lanes,
        edge=dice.choice(("none", "none", "white", "yellow", "yellow")),
        stop=(crossing - 2.5,) if dice.chance(0.35) else (),
        zebra=(crossing,) if dice.chance(0.3) else (),
        zebra_period=dice.uniform(0.9, 1.4),
        zigzag=(crossing + 3, crossing + 16) if dice.chance(0.25) else None,
        hatching=(dice.uniform(2, 20), dice.uniform(22, 40)) if dice.chance(0.12) else None,
        box=(crossing + 3, crossing + 11) if dice.chance(0.1) else None,
        arrows=tuple((plan.hand * width / 2 * dice.choice((1, 0.5)), dice.uniform(5, 30)) for _ in range(2))
        if dice.chance(0.25) else (),
        paint=dice.vary((0.62, 0.61, 0.58), 0.2),
        wear=worn,
    )  # fmt: skip
    islands: tuple[tuple[float, float, float, float], ...] = ()
    if width > 4 and dice.chance(0.18):
        islands = ((0.0, crossing + dice.uniform(-3, 8), dice.uniform(0.5, 1.0), dice.uniform(1.5, 6)),)
    gray = dice.uniform(0.07, 0.19)
    warm = dice.uniform(-0.05, 0.08)
    return Road(
        half_width=width,
        pavement=(plan.sides[0].pavement, plan.sides[1].pavement),
        bend=dice.normal(0, 0.0007) if dice.chance(0.6) else 0.0,
        verge=(_verge(dice, plan.sides[0]), _verge(dice, plan.sides[1])),
        grass_yard=(_grassy(dice, plan.sides[0]), _grassy(dice, plan.sides[1])),
        side_streets=tuple(streets),
        islands=islands,
        markings=markings,
        asphalt=(gray * (1 + warm), gray, gray * (1 - warm)),
        paving=dice.vary(dice.choice(_PAVINGS), 0.35),
        slab=dice.choice((0.0, 0.0, 0.6, 0.75, 0.4)),
        kerb=dice.vary((0.26, 0.255, 0.245), 0.35),
        grass=dice.vary((0.07, 0.11, 0.03), 0.5),
        wetness=dice.uniform(0.2, 0.9) if dice.chance(0.25) else 0.0,
        texture=dice.uniform(0.5, 1.5),
    )  # fmt: skip


def _verge(dice: Dice, side: Side) -> float:
    return side.pavement * 0.5 if side.kind != "city" and dice.chance(0.15) else 0.0


def _grassy(dice: Dice, side: Side) -> bool:
    return side.kind == "park" or (side.kind != "city" and dice.chance(0.5))


def _camera(dice: Dice, plan: Plan, road: Road) -> Camera:
    lane = plan.half_width / 2
    if dice.chance(0.04):
        side = plan.sides[dice.integer(0, 2)]
        u = side.direction * (plan.half_width + dice.uniform(0.4, 0.7) * side.pavement)
        height = dice.uniform(1.5, 1.8)
    else:
        u = plan.hand * lane + dice.normal(0, 0.5)
        height = dice.uniform(1.05, 1.65)
    yaw = dice.normal(0, 0.06) if dice.chance(0.78) else dice.normal(0, 0.30)
    # At the edges of the field of view the end of the street must stay in sight often enough.
    focal = dice.uniform(0.85, 1.25)
    pitch = dice.normal(0.0, 0.022)
    return Camera(u, height, 0.0, yaw, pitch, dice.normal(0, 0.008), focal)


def _light(dice: Dice) -> tuple[Light, Optics]:
    dusk, clear = dice.chance(0.28), dice.chance(0.6)
    azimuth, elevation = dice.uniform(0, 2 * math.pi), math.radians(dice.uniform(10, 48))
    sun = (math.sin(azimuth) * math.cos(elevation), math.sin(elevation), math.cos(azimuth) * math.cos(elevation))
    tone = dice.uniform(0.85, 1.1)
    if dusk:
        level = dice.uniform(0.10, 0.30)
        sky = dice.uniform(0.35, 0.95)
        sun_strength = dice.uniform(0, 0.15) if clear else 0.0
        cover, contrast = dice.uniform(0.3, 1), dice.uniform(0.3, 0.75)
    else:
        level = dice.uniform(0.16, 0.5) if clear else dice.uniform(0.3, 0.75)
        sky = dice.uniform(0.8, 2.2)
        sun_strength = dice.uniform(0.8, 2.8) if clear else 0.0
        cover, contrast = dice.uniform(0, 1), dice.uniform(0.1, 0.4)
    blue = dice.uniform(0.55, 0.95) if clear else dice.uniform(0.9, 1.0)
    zenith = (sky * blue**2, sky * (0.25 + 0.75 * blue), sky * 1.02)
    horizon = (sky * dice.uniform(0.95, 1.1), sky * 1.05, sky * dice.uniform(0.95, 1.1))
    fog_level = sky * dice.uniform(0.35, 0.8)
    visibility = 10 ** dice.uniform(2.4, 3.6) if dice.chance(0.85) else 10 ** dice.uniform(1.85, 2.4)
    light = Light(
        sun=sun,
        sun_color=(sun_strength * tone, sun_strength * 0.95, sun_strength * 0.85 / tone),
        ambient=(level * 0.94, level, level * dice.uniform(1.0, 1.12)),
        zenith=zenith,
        horizon=horizon,
        cloud_color=(sky * 1.1, sky * 1.1, sky * 1.12),
        cloud_cover=cover,
        cloud_contrast=contrast,
        cloud_offset=(dice.uniform(0, 256), dice.uniform(0, 256)),
        fog=(fog_level, fog_level * 1.01, fog_level * 1.03),
        visibility=visibility,
        glare=dice.uniform(0.0, 0.012) if dice.chance(0.4) else 0.0,
    )
    optics = Optics(
        exposure=dice.uniform(0.65, 1.4),
        black=dice.uniform(0.0, 0.003),
        contrast=dice.uniform(0.0, 1.6),
        saturation=dice.uniform(0.6, 1.15),
        tint=(dice.uniform(0.93, 1.05), 1.0, dice.uniform(0.95, 1.09)),
        vignette=dice.uniform(0.0, 0.35),
        blur=dice.uniform(0.0, 0.24) if dice.chance(0.8) else dice.uniform(0.24, 0.33),
        motion=dice.uniform(0.1, 0.33) if dice.chance(0.15) else 0.0,
        chroma_blur=dice.chance(0.6),
        noise=dice.uniform(0.001, 0.012),
        sharpen=dice.uniform(0, 0.5) if dice.chance(0.5) else 0.0,
        smear=dice.unit() if dice.chance(0.04) else None,
    )
    return light, optics


def _facade(dice: Dice, eaves: float, shop: bool) -> tuple[float, ...]:
    wall = dice.vary(dice.choice(_WALLS), 0.35)
    storey = dice.uniform(2.6, 3.6)
    ground = dice.uniform(3.0, 4.2) if shop else storey
    frame = dice.vary((0.62, 0.61, 0.58), 0.2) if dice.chance(0.75) else dice.vary((0.06, 0.05, 0.05), 0.5)
    sill = dice.uniform(0.2, 0.36)
    # Offices have bands of glass; houses have windows in a wall.
    office = eaves > 9 and dice.chance(0.25)
    opening = dice.uniform(0.75, 0.92) if office else dice.uniform(0.3, 0.55)
    return (
        *wall, *dice.vary(dice.choice(_ROOFS), 0.4), *dice.vary(dice.choice(_FASCIAS), 0.4), *frame,
        dice.uniform(1.6, 3.6), opening, storey, ground, sill, sill + dice.uniform(0.38, 0.58), float(shop),
        dice.uniform(0.015, 0.08), float(dice.integer(0, 4000)), eaves, dice.uniform(0.05, 0.2),
        float(dice.chance(0.4)), float(dice.chance(0.6)),
    )  # fmt: skip


def _row_of_buildings(dice: Dice, scene: Scene, side: Side) -> None:
    road = scene.road
    s = FIRST_S
    row_height = dice.uniform(7.5, 16)
    even = dice.chance(0.3)
    while s < 150:
        far = max(1.0, s / 70)
        if side.kind == "city":
            width, gap = dice.uniform(5, 15) * far, 0.0 if dice.chance(0.85) else dice.uniform(2, 9)
            eaves = row_height if even else dice.uniform(0.65, 1.35) * row_height
        elif side.kind == "homes":
            width, gap = dice.uniform(6, 13) * far, dice.uniform(0, 1) if dice.chance(0.4) else dice.uniform(1.5, 7)
            eaves = dice.uniform(4.6, 6.6)
        else:
            width, gap = dice.uniform(9, 32), dice.uniform(6, 45)
            eaves = dice.uniform(3.5, 14)
        end = s + width
        blocked = next((g for g in side.gaps if s < g[1] and end > g[0]), None)
        if blocked:
            if blocked[0] - s < 4:
                s = blocked[1]
                continue
            end = blocked[0]
        if side.kind in ("park", "open") and dice.chance(0.35):
            s = end + gap
            continue
        _building(dice, scene, side, s, end, eaves)
        s = end + gap
    # What stands along a side street, and closes the view into it.
    for low, high in side.gaps:
        distance = road.half_width + side.pavement + dice.uniform(30, 55)
        x, z = road.place(side.direction * distance, low - 25)
        scene.solids.append(bodies.house(x, z, (0.0, 1.0), side.direction < 0, high - low + 60, 10,
                                         dice.uniform(4, 10), dice.uniform(0, 3), False,
                                         _facade(dice, 8, False)))  # fmt: skip


def _building(dice: Dice, scene: Scene, side: Side, s: float, end: float, eaves: float) -> None:
    road = scene.road
    offset = side.direction * (road.half_width + side.pavement + side.setback + dice.uniform(0, 0.4))
    x0, z0 = road.place(offset, s)
    x1, z1 = road.place(offset, end)
    length = math.hypot(x1 - x0, z1 - z0)
    along = ((x1 - x0) / length, (z1 - z0) / length)
    pitched = dice.chance({"city": 0.55, "homes": 0.95}.get(side.kind, 0.4))
    gable = pitched and length < 11 and dice.chance(0.3)
    depth = dice.uniform(7, 12)
    ridge = dice.uniform(0.3, 0.5) * min(length if gable else depth, 10) if pitched else 0.0
    shop = dice.chance({"city": 0.6, "homes": 0.06}.get(side.kind, 0.3))
    paint = _facade(dice, eaves, shop)
    scene.solids.append(bodies.house(x0, z0, along, side.direction < 0, length, depth, eaves, ridge, gable, paint))
    row = 0 if side.direction < 0 else 1
    low, high = (int(np.clip(v - FIRST_S, 0, 255)) for v in (s, end))
    # Heights at the building line, as `shading.sunlight` reads them: farther back throws a shorter shadow.
    scene.shadow_height[row, low:high] = max(0.0, eaves + ridge * 0.4 - side.setback * 0.5)
    if pitched and s < 70:
        for _ in range(dice.integer(0, 3)):
            back = dice.uniform(0.3, 0.7) * depth
            sign = side.direction
            position = dice.choice((0.3, length - 1.0))
            x = x0 + along[0] * position + sign * along[1] * back
            z = z0 + along[1] * position - sign * along[0] * back
            color: Color = (paint[0] * 0.7, paint[1] * 0.7, paint[2] * 0.7)
            scene.solids.append(bodies.block(BUILDING, MASONRY, x, z, along, dice.uniform(0.6, 1.1), ridge * 0.5 + 1.6,
                                             0.7, color, lift=eaves + ridge * 0.3))  # fmt: skip


def _end_of_street(dice: Dice, scene: Scene, plan: Plan) -> None:
    """Return buildings across the view where the street ends or turns, so that no horizon lies bare."""
    x = -90.0
    while x < 90:
        width = dice.uniform(8, 26)
        if dice.chance(0.75):
            z = plan.end + dice.uniform(0, 25) + 0.15 * abs(x)
            eaves, ridge = dice.uniform(3.5, 9.5), dice.uniform(0, 3.5)
            scene.solids.append(bodies.house(scene.road.centre(plan.end) + x, z, (1.0, 0.0), True, width, 9, eaves,
                                             ridge, dice.chance(0.3), _facade(dice, eaves, False)))  # fmt: skip
        x += width + (dice.uniform(0, 8) if dice.chance(0.5) else 0.0)
