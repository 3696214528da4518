"""Paint, glass, wheels, lamps and plates of vehicles."""

from __future__ import annotations

import numpy as np

from segmodels.data.streets import bodies, noise
from segmodels.data.streets.camera import View
from segmodels.data.streets.common import Array, IntArray, modulo, pick
from segmodels.data.streets.facades import Shaded, local_coordinates
from segmodels.data.streets.geometry import Points, Solids


def vehicle(solids: Solids, table: Array, kinds: IntArray, face: IntArray, points: Points, view: View) -> Shaded:
    """Reflectance (three planes) and gloss of points on vehicles."""
    number = face >> 3
    column = np.ascontiguousarray(table.T)

    def paint(name: int) -> Array:
        return pick(column[name], number)

    l, w = local_coordinates(solids, number, points.x, points.z)  # noqa: E741
    y, w = points.y, np.abs(w)
    normal = solids.local_normals.reshape(-1, 3)
    n_l, n_y, n_w = (pick(np.ascontiguousarray(normal[:, k]), face) for k in range(3))
    side, end = np.abs(n_w) > 0.7, (np.abs(n_l) > 0.55) & (n_y < 0.75)
    kind = pick(kinds, number)
    cabin, box = kind == bodies.GLASSHOUSE, kind == bodies.BOX_BODY
    length, width, belt, height = paint(bodies.LENGTH), paint(bodies.WIDTH), paint(bodies.BELT), paint(bodies.HEIGHT)
    front = n_l > 0

    glazed = paint(bodies.GLAZED)
    # Windows: all around a car's cabin, the front of vans, rows along a bus.
    window = cabin & (n_y < 0.9) & (y > belt + 0.06) & (y < height - 0.09)
    pillar = side & (np.abs(modulo(l + np.float32(0.15), 1.05) - np.float32(0.5)) < np.float32(0.05))
    rim = end & (w > width - np.float32(0.28))
    window &= ~(pillar | rim)
    screen = (
        box & end & (y > belt + np.float32(0.1)) & (y < np.minimum(height - np.float32(0.25), belt + np.float32(1.0)))
    )
    screen &= (w < width - np.float32(0.15)) & (front | (glazed > 1.5) | (luck_of(number) < 0.5))
    cab = box & side & (y > belt) & (y < belt + np.float32(0.65)) & (l > length * np.float32(0.5) - np.float32(2.2))
    cab &= l < length * np.float32(0.5) - np.float32(0.9)
    rows = box & side & (glazed > 1.5) & (np.abs(modulo(y, 1.9) - np.float32(1.55)) < np.float32(0.45))
    rows &= (y > 1.0) & (y < height - 0.2) & (np.abs(modulo(l, 1.6) - np.float32(0.8)) < np.float32(0.72))
    glass = window | screen | cab | rows

    wheel_l = np.minimum(np.abs(l - paint(bodies.FRONT_AXLE)), np.abs(l - paint(bodies.REAR_AXLE)))
    radius = paint(bodies.WHEEL)
    from_hub = np.sqrt(wheel_l * wheel_l + (y - radius) ** 2) / radius
    wheel = side & (from_hub < 1.15)
    rim_metal = side & (from_hub < 0.62)
    below = (y < np.float32(0.2)) & ~wheel
    body = ~cabin
    lamp_height = np.abs(y - np.where(box, np.float32(0.85), belt - np.float32(0.24))) < np.float32(0.1)
    lamp = body & end & lamp_height & (w > width * np.float32(0.62)) & (w < width * np.float32(0.98))
    plate = body & end & (np.abs(y - np.float32(0.47)) < np.float32(0.06)) & (w < np.float32(0.26))
    grille = body & end & front & (np.abs(y - np.float32(0.55)) < np.float32(0.09)) & (w < np.float32(0.45)) & ~plate
    bumper = body & end & (y < np.float32(0.34))
    seam = body & side & (np.abs(modulo(l + np.float32(0.35), 1.1) - np.float32(0.5)) < np.float32(0.02)) & (y > 0.35)
    seam &= np.abs(l) < np.float32(1.3)

    # What paint mirrors: bright sky from above, the dark street from below.
    mirror = np.clip(np.float32(0.06) + n_y * np.float32(0.2), 0.02, 0.3)
    mirror = mirror + np.clip(noise.sample(noise.fractal(1.2, 41), l * 14 + number * 17, y * 30), -1, 2) * np.float32(
        0.012
    )
    streak = noise.sample(noise.fractal(1.0, 42), l * 4 + w * 9 + number * 31, y * 9)
    glass_gloss = np.clip(np.float32(0.02) + n_y * np.float32(0.12) + streak * np.float32(0.01), 0.004, 0.4)
    dull = wheel | below | plate | lamp | grille | bumper
    gloss = np.where(glass, glass_gloss, np.where(dull, np.float32(0.004), np.maximum(mirror, 0) * np.float32(0.45)))
    lit = paint(bodies.LAMPS) > 0
    albedo = []
    for channel in range(3):
        value = paint(channel) * (np.float32(0.75) + np.float32(0.25) * np.clip(y, 0, 1))
        value = np.where(bumper, value * np.float32(0.5), value)
        value = np.where(seam, value * np.float32(0.35), value)
        value = np.where(glass, paint(bodies.TINT), value)
        value = np.where(grille, np.float32(0.015), value)
        rear_lamp = np.where(lit, np.float32((2.2, 0.12, 0.08)[channel]), np.float32((0.35, 0.012, 0.01)[channel]))
        head_lamp = np.where(lit, np.float32(3.0), np.float32(0.5))
        value = np.where(lamp, np.where(front, head_lamp, rear_lamp), value)
        rear_plate = np.float32((0.55, 0.42, 0.05)[channel])
        value = np.where(plate, np.where(front, np.float32(0.55), rear_plate), value)
        value = np.where(wheel, np.float32(0.012), value)
        value = np.where(rim_metal, np.float32(0.16), value)
        albedo.append(np.where(below, np.float32(0.006), value))
    return albedo, gloss


def luck_of(number: IntArray) -> Array:
    """Return a number in 0..1 that belongs to the vehicle."""
    return noise.scatter(number, number, 3)
