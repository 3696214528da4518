"""Lamps, posts, traffic lights and signs."""

from __future__ import annotations

from segmodels.data.streets.classes import POLE, SIGN
from segmodels.data.streets.common import Color, Dice
from segmodels.data.streets.plan import Plan, Side
from segmodels.data.streets.scene import Bar, Billboard, Scene
from segmodels.data.streets.sprites import atlas

_WHITE, _BLACK, _RED, _BLUE = (0.75, 0.75, 0.73), (0.01, 0.01, 0.01), (0.5, 0.015, 0.015), (0.01, 0.06, 0.35)
_GREEN, _YELLOW = (0.005, 0.12, 0.05), (0.6, 0.45, 0.02)
# Face, border, mark, lamp.
_SIGN_COLORS: dict[str, tuple[tuple[Color, ...], ...]] = {
    "round": ((_WHITE, _RED, _BLACK, _BLACK), (_BLUE, _BLUE, _WHITE, _WHITE), (_BLUE, _RED, _RED, _RED)),
    "triangle": ((_WHITE, _RED, _BLACK, _BLACK),),
    "board": ((_WHITE, _BLACK, _BLACK, _BLACK), (_BLUE, _WHITE, _WHITE, _WHITE), (_YELLOW, _BLACK, _BLACK, _BLACK)),
    "arrow_board": (
        (_GREEN, _WHITE, _WHITE, _WHITE), (_BLUE, _WHITE, _WHITE, _WHITE), (_WHITE, _BLACK, _BLACK, _BLACK),
    ),
}  # fmt: skip
_LAMPS: tuple[Color, ...] = ((2.5, 0.15, 0.08), (2.2, 1.1, 0.1), (0.1, 2.3, 0.9))


class LampStyle:
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


def lamps(dice: Dice, scene: Scene, side: Side, style: LampStyle) -> None:
    if dice.chance(0.15):
        return
    s = dice.uniform(3, 4 + style.spacing)
    near_kerb = dice.chance(0.6)
    u = side.half_width + (0.5 if near_kerb else side.pavement - 0.3)
    while s < 95:
        x, z = scene.road.place(side.direction * u, s)
        instance = _pole(dice, scene, x, z, style.height, 0.17, style.color)
        inwards = -side.direction * style.arm
        scene.bars.append(
            Bar(POLE, style.color, x, z, style.height - 0.1, 0.1, style.arm + 0.05, inwards / 2, instance)
        )
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


def signs(dice: Dice, scene: Scene, side: Side) -> None:
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


def traffic_lights(dice: Dice, scene: Scene, plan: Plan) -> None:
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
            lift, emission = dice.uniform(2.2, 2.7), 0.0 if away else 1.0
            scene.billboards.append(Billboard(SIGN, names[lit], palette, x, z - 0.15, lift, height, height * 0.42,
                                              scene.new_instance(), emission=emission))  # fmt: skip
