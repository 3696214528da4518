"""Walls with windows, shop fronts and roofs; garden walls and hedges."""

from __future__ import annotations

import numpy as np

from segmodels.data.streets import bodies, noise
from segmodels.data.streets.camera import View
from segmodels.data.streets.common import Array, IntArray, pick
from segmodels.data.streets.geometry import Points, Solids

Shaded = tuple[list[Array], Array]
_HALF = np.float32(0.5)


def local_coordinates(solids: Solids, number: IntArray, x: Array, z: Array) -> tuple[Array, Array]:
    """Return metres along and across the solid that each point belongs to."""
    origin, along, across = solids.origin, solids.along, solids.across
    dx, dz = x - pick(origin[:, 0], number), z - pick(origin[:, 1], number)
    return (
        dx * pick(along[:, 0], number) + dz * pick(along[:, 1], number),
        dx * pick(across[:, 0], number) + dz * pick(across[:, 1], number),
    )


def facade(solids: Solids, table: Array, kinds: IntArray, face: IntArray, points: Points, view: View) -> Shaded:
    """Reflectance (three planes) and gloss of points on buildings."""
    number, which = face >> 3, face & 7
    column = np.ascontiguousarray(table.T)

    def paint(name: int) -> Array:
        return pick(column[name], number)

    along, across = local_coordinates(solids, number, points.x, points.z)
    on_side = (which == 2) | (which == 3)
    on_roof = which >= 4
    a = np.where(on_side, -across, along)
    y = points.y
    pixel = points.depth * np.float32(1 / view.focal)
    # A wall seen at a slant: a pixel covers more of it sideways.
    normals = (solids.normals.reshape(-1, 3) @ view.camera.rotation.T)[:, 2]
    slant = np.maximum(np.abs(pick(normals, face)), np.float32(0.12))
    sharp_y, sharp_x = 1 / pixel, slant / pixel

    pitch, storey, ground, shop = (
        paint(bodies.PITCH),
        paint(bodies.STOREY),
        paint(bodies.GROUND_FLOOR),
        paint(bodies.SHOP),
    )
    eaves, seed = paint(bodies.EAVES), paint(bodies.SEED)
    at_ground = y < ground
    shop_front = at_ground & (shop > 0) & ~on_side
    pitch = np.where(shop_front, pitch * np.float32(1.7), pitch)
    storey = np.where(at_ground, ground, storey)
    column_number = np.floor(a / pitch)
    level = np.where(at_ground, np.float32(-1), np.floor((y - ground) / storey))
    u = a - (column_number + _HALF) * pitch
    v = y - np.where(at_ground, np.float32(0), ground + level * storey)
    luck = noise.scatter(column_number, level, seed.astype(np.int32))

    door = at_ground & ~shop_front & (luck < 0.25)
    low = np.where(door, np.float32(0), np.where(shop_front, np.float32(0.55), paint(bodies.SILL) * storey))
    high = np.where(shop_front, ground - np.float32(0.95), paint(bodies.HEAD) * storey)
    high = np.where(door, np.float32(2.1), high)
    half = np.where(shop_front, np.float32(0.45), paint(bodies.OPENING) * _HALF) * pitch
    half = np.where(door, np.minimum(half, np.float32(0.5)), half)
    # Gables and party walls have few windows, and none goes above the eaves.
    blind = (
        on_roof | (y > eaves - np.float32(0.3)) | (level * storey + ground + high > eaves) | (on_side & (luck < 0.75))
    )
    inset = np.minimum(v - low, high - v)
    beside = half - np.abs(u)
    opening = np.clip(inset * sharp_y + _HALF, 0, 1) * np.clip(beside * sharp_x + _HALF, 0, 1)
    opening *= ~blind
    border = np.float32(0.09)
    pane = np.clip((inset - border) * sharp_y + _HALF, 0, 1) * np.clip((beside - border) * sharp_x + _HALF, 0, 1)
    bar = np.clip((np.float32(0.04) - np.abs(u)) * sharp_x + _HALF, 0, 1) * np.minimum(sharp_x * np.float32(0.08), 1)
    pane *= (1 - bar * np.float32(0.8)) * opening

    coarse = noise.sample(noise.fractal(0.9, 31), a * 9 + seed, y * 9)
    fine = noise.sample(noise.fractal(0.2, 32), a * 24, y * 40) * np.clip(np.float32(0.03) * sharp_x, 0, 1)
    texture = 1 + (coarse * _HALF + fine) * paint(bodies.ROUGH)
    texture -= np.float32(0.12) * np.clip(1 - y * np.float32(0.6), 0, 1)
    sill_band = (np.abs(v - low + np.float32(0.12)) < np.float32(0.1)) & ~at_ground
    cornice = np.abs(y - eaves + np.float32(0.15)) < np.float32(0.2)
    texture += np.float32(0.5) * paint(bodies.BANDS) * (cornice | (sill_band & (paint(bodies.COURSE) > 0))) * ~on_roof
    fascia = shop_front & (v > ground - np.float32(0.85)) & (v < ground - np.float32(0.2))
    letters = fascia & (np.abs(v - ground + np.float32(0.52)) < np.float32(0.17)) & (np.abs(u) < half * np.float32(0.7))
    letters &= noise.scatter(np.floor(a * 4), level, seed.astype(np.int32) + 9) > 0.35
    frontage = shop_front & ~fascia

    shine = np.clip(luck * np.float32(1.6) - np.float32(0.75), 0, 1)
    blinds = np.clip(noise.scatter(column_number, level + 7, seed.astype(np.int32)) * 3 - 2, 0, 1) * (
        v > (low + high) * _HALF
    )
    glass = paint(bodies.GLASS) * (np.float32(0.5) + luck)
    inside = np.maximum(noise.sample(noise.fractal(0.9, 33), a * 16 + seed, y * 11) - np.float32(0.3), 0)
    glass = glass + frontage * inside * np.float32(0.12) + blinds * np.float32(0.3)
    gloss = pane * (np.float32(0.03) + np.float32(0.16) * shine * (1 - blinds))
    albedo = []
    for channel in range(3):
        wall = np.where(on_roof, paint(bodies.ROOF + channel), paint(bodies.WALL + channel)) * texture
        wall = np.where(fascia | frontage, paint(bodies.FASCIA + channel), wall)
        wall = np.where(letters, np.float32(0.55), wall)
        frame = np.where(frontage | door, paint(bodies.FASCIA + channel), paint(bodies.FRAME + channel))
        wall = wall + (frame - wall) * opening
        tint = np.float32((0.97, 1.0, 1.06)[channel])
        albedo.append(wall + (np.where(door, frame, glass * tint) - wall) * pane)
    return albedo, gloss


def block(solids: Solids, table: Array, kinds: IntArray, face: IntArray, points: Points, view: View) -> Shaded:
    """Reflectance and gloss of garden walls, chimneys and hedges."""
    number = face >> 3
    along, across = local_coordinates(solids, number, points.x, points.z)
    a = along + across
    leafy = pick(kinds, number) == bodies.HEDGE
    coarse = noise.sample(noise.fractal(0.8, 34), a * 20, points.y * 20)
    fine = noise.sample(noise.fractal(0.2, 35), a * 28, points.y * 44)
    texture = np.where(
        leafy, np.clip(np.float32(0.55) + np.float32(0.4) * coarse, 0.1, 2), 1 + np.float32(0.08) * coarse
    )
    texture = texture + fine * np.float32(0.1)
    rgb = table[:, :3].T
    return [pick(np.ascontiguousarray(rgb[c]), number) * texture for c in range(3)], np.zeros_like(texture)
