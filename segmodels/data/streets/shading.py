"""Colour of what the buffer sees, in linear light: sky and ground; `facades` and `coachwork` do the solids."""

from __future__ import annotations

import math

import numpy as np

from segmodels.data.streets import bodies, coachwork, facades, markings, noise
from segmodels.data.streets.camera import View
from segmodels.data.streets.common import Array, IntArray, as_table, modulo, pick
from segmodels.data.streets.geometry import Buffer, Ground, Solids, world_points
from segmodels.data.streets.plan import FIRST_S
from segmodels.data.streets.scene import ASPHALT, FIRST_SOLID, GRASS, KERB, PAVING, YARD, Light, Road, Scene


def sunlight(scene: Scene, x: Array, y: Array, z: Array) -> Array:
    """Return share of the sun, 0..1, that the buildings beside the street let through to each point."""
    east, up, north = scene.light.sun
    side = 1 if east > 0 else -1
    row = 0 if side < 0 else 1
    line = scene.road.half_width + scene.road.pavement[row]
    u = x - np.float32(scene.road.bend) * z * z
    run = np.maximum(np.float32(line) - u * np.float32(side), 0) / np.float32(max(abs(east), 1e-3))
    along = z + run * np.float32(north) - np.float32(FIRST_S)
    height = pick(scene.shadow_height[row], along.astype(np.int32))
    return np.clip(np.float32(0.5) + (y + run * np.float32(up) - height) * np.float32(1.5), 0, 1)


def shade(scene: Scene, view: View, buffer: Buffer, ground: Ground, solids: Solids) -> Array:
    """Colours of everything opaque, linear, float32 `[3, H, W]`."""
    color = np.empty((3, view.height * view.width), np.float32)
    surface = buffer.surface.ravel()
    _sky(scene.light, view, np.flatnonzero(surface == 0), color)
    _ground(scene, view, ground, buffer, color)
    kinds = _materials(scene)
    solid_pixels = np.flatnonzero(surface >= FIRST_SOLID)
    material = pick(kinds, (pick(surface, solid_pixels) - FIRST_SOLID) >> 3)
    table = as_table(
        [s.paint + (0.0,) * (bodies.PAINT_COLUMNS - len(s.paint)) for s in scene.solids], bodies.PAINT_COLUMNS
    )
    light = _face_light(scene.light, solids)
    for group, draw in (
        ((bodies.FACADE,), facades.facade),
        ((bodies.MASONRY, bodies.HEDGE), facades.block),
        ((bodies.COACHWORK, bodies.GLASSHOUSE, bodies.BOX_BODY), coachwork.vehicle),
    ):
        mask = material == group[0]
        for other in group[1:]:
            mask |= material == other
        index = solid_pixels[mask]
        if not len(index):
            continue
        points = world_points(view, buffer, index)
        face = pick(surface, index) - FIRST_SOLID
        lit = sunlight(scene, points.x, points.y, points.z) if scene.light.sun_color[1] > 0 else 0.0
        albedo, gloss = draw(solids, table, kinds, face, points, view)
        ambient, direct = pick(light[0], face), pick(light[1], face) * lit
        for channel in range(3):
            radiance = ambient * np.float32(scene.light.ambient[channel])
            radiance += direct * np.float32(scene.light.sun_color[channel])
            color[channel, index] = albedo[channel] * radiance + gloss * np.float32(scene.light.horizon[channel])
    _fog(scene.light, buffer, color)
    return color.reshape(3, view.height, view.width)


def _materials(scene: Scene) -> IntArray:
    return np.array([s.material for s in scene.solids], np.int32)


def _face_light(light: Light, solids: Solids) -> tuple[Array, Array]:
    """Ambient and direct light on every face of every solid, `[solids * FACES]` each."""
    normals = solids.normals.reshape(-1, 3)
    direct = np.maximum(normals @ np.array(light.sun, np.float32), 0)
    # The sky is above; what faces down or sideways sees less of it.
    ambient = np.float32(0.62) + np.float32(0.38) * normals[:, 1] + np.float32(0.06) * normals[:, 0]
    return ambient, direct


def _sky(light: Light, view: View, index: IntArray, color: Array) -> None:
    dx, dy = pick(view.grid[0], index), pick(view.grid[1], index)
    rotation = view.camera.rotation
    east, up, north = (dx * rotation[0, k] + dy * rotation[1, k] + rotation[2, k] for k in range(3))
    scale = np.float32(10) / (np.maximum(up, 0) + np.float32(0.12))
    u = east * scale + np.float32(light.cloud_offset[0])
    v = north * scale + np.float32(light.cloud_offset[1])
    density = noise.sample_smooth(noise.fractal(1.5, 7), u, v)
    density += noise.sample_smooth(noise.fractal(1.2, 8), u * 4, v * 4) * np.float32(0.25)
    cloud = np.clip(density * np.float32(0.9) + np.float32(3 * light.cloud_cover - 1.5), 0, 1)
    thick = np.clip(density * np.float32(0.5), -0.6, 1) * np.float32(light.cloud_contrast)
    height = np.clip(up * np.float32(1.9), 0, 1)
    glow: Array | float = 0.0
    sun = light.sun
    if light.sun_color[1] > 0 and float(rotation[2] @ np.array(sun, np.float32)) > 0.3:
        toward = (east * np.float32(sun[0]) + up * np.float32(sun[1]) + north * np.float32(sun[2])) / np.sqrt(
            dx * dx + dy * dy + np.float32(1)
        )
        glow = np.float32(3.0) / (1 + (1 - toward) * np.float32(300)) * np.float32(light.sun_color[1])
    for channel in range(3):
        clear = np.float32(light.horizon[channel]) + height * np.float32(light.zenith[channel] - light.horizon[channel])
        white = np.float32(light.cloud_color[channel]) * (1 - thick)
        color[channel, index] = clear + (white - clear) * cloud + glow


# Reflectance of lines between slabs, strength of fine and of coarse texture, by ground material.
_FINE = np.array([0, 0.12, 0.14, 0.10, 0.30, 0.12], np.float32)
_COARSE = np.array([0, 0.07, 0.08, 0.06, 0.22, 0.12], np.float32)


def _ground(scene: Scene, view: View, ground: Ground, buffer: Buffer, color: Array) -> None:
    road, light = scene.road, scene.light
    surface = buffer.surface[ground.top :].ravel()
    local = np.flatnonzero((surface > 0) & (surface < FIRST_SOLID))
    index = local + ground.top * view.width
    material = pick(surface, local)
    nearness = pick(buffer.nearness.ravel(), index)
    u, x, z = pick(ground.u.ravel(), local), pick(ground.x.ravel(), local), pick(ground.z.ravel(), local)
    footprint = 1 / (nearness * np.float32(view.focal))
    stretched = footprint / (nearness * np.float32(view.camera.height))
    # In the street's own directions, which the camera may see at an angle.
    sin, cos = (np.float32(abs(f(view.camera.yaw))) for f in (math.sin, math.cos))
    foot_u, foot_s = footprint * cos + stretched * sin, footprint * sin + stretched * cos
    fade = np.float32(1) / (1 + stretched * np.float32(3))
    fine = noise.sample(noise.fractal(0.4, 21), x * 31, z * 31) * fade
    # Longer along the street than across it, as tyres and repairs leave it.
    coarse = noise.sample_smooth(noise.fractal(1.3, 22), u * 6 + 40, z)
    texture = 1 + (fine * pick(_FINE, material) + coarse * pick(_COARSE, material)) * np.float32(road.texture)
    on_road = material == ASPHALT
    white, yellow = markings.coverage(road, u, z, foot_u, foot_s)
    worn = np.clip(1 - np.float32(road.markings.wear) * (np.float32(0.35) + fine * 0.5 + coarse * 0.25), 0, 1)
    keep = on_road * worn
    white *= keep
    yellow *= keep
    texture += _wheel_tracks(road, u) * on_road
    texture -= _joints(road, u, z, foot_s) * (material == PAVING)
    base = _ground_colors(road)
    shadow = pick(ground.shade.ravel(), local)
    light_up = (
        sunlight(scene, x, np.zeros_like(x), z) * shadow * np.float32(light.sun[1]) if light.sun_color[1] > 0 else 0.0
    )
    shadow *= np.float32(0.98)
    sheen = np.minimum(np.float32(0.03) / np.maximum(nearness, np.float32(0.02)), np.float32(0.6))
    sheen *= np.float32(0.35 * road.wetness) * on_road * (1 + coarse * np.float32(0.5))
    sheen = np.maximum(sheen, 0) * shadow
    paint = np.array(road.markings.paint, np.float32)
    gold = paint * np.array([0.9, 0.65, 0.12], np.float32)
    bare = 1 - np.minimum(white + yellow, 1)
    for channel in range(3):
        albedo = pick(base[channel], material) * texture * bare + white * paint[channel] + yellow * gold[channel]
        radiance = shadow * np.float32(light.ambient[channel]) + light_up * np.float32(light.sun_color[channel])
        color[channel, index] = np.maximum(albedo, np.float32(0.01)) * radiance + sheen * np.float32(
            light.horizon[channel]
        )


def _ground_colors(road: Road) -> Array:
    """Reflectances `[3, materials]`."""
    table = np.zeros((3, FIRST_SOLID), np.float32)
    table[:, ASPHALT] = road.asphalt
    table[:, PAVING] = road.paving
    table[:, KERB] = np.array(road.kerb) * 0.75
    table[:, GRASS] = road.grass
    table[:, YARD] = np.array(road.paving) * 0.8
    return table


def _wheel_tracks(road: Road, u: Array) -> Array:
    """Lighter and darker stripes where tyres roll, and dirt at the kerbs."""
    lane = np.float32(2 * np.pi / max(road.half_width / 2, 1.6))
    tracks = np.cos(u * lane) * np.float32(0.05 * road.texture)
    return tracks - np.clip(np.abs(u) - np.float32(road.half_width - 0.5), 0, 1) * np.float32(0.4)


def _joints(road: Road, u: Array, s: Array, footprint_s: Array) -> Array:
    """Dark lines between paving slabs; the kerb stone's top counts as light, so it comes out negative."""
    kerb = np.clip(np.float32(road.half_width + 0.18) - np.abs(u), 0, np.float32(0.1)) * np.float32(-3.5)
    if not road.slab:
        return kerb
    period = np.float32(1 / road.slab)
    across = np.abs(modulo(u * period, 1) - np.float32(0.5)) > np.float32(0.46)
    along = np.abs(modulo(s * period, 1) - np.float32(0.5)) > np.float32(0.46)
    fade = np.clip(np.float32(1.3) - footprint_s * period * 2, 0, 1) * np.float32(0.3)
    return kerb + (across | along) * fade


def _fog(light: Light, buffer: Buffer, color: Array) -> None:
    nearness = buffer.nearness.ravel()
    clear = nearness / (nearness + np.float32(1 / light.visibility))
    clear[buffer.surface.ravel() == 0] = 1
    for channel in range(3):
        fog = np.float32(light.fog[channel])
        color[channel] -= fog
        color[channel] *= clear
        color[channel] += fog


def contact_shadows(scene: Scene, view: View, ground: Ground, solids: Solids) -> None:
    """Darken the ground under and beside vehicles, and where the sun throws their shadow."""
    east, up, north = scene.light.sun
    sunny = scene.light.sun_color[1] > 0.1
    reach = 0.9 / up if sunny else 0.0
    for number, solid in enumerate(scene.solids):
        if solid.material not in (bodies.COACHWORK, bodies.BOX_BODY) or not 0 < solids.depths[number] < 60:
            continue
        x0, x1, _, y1 = solids.rectangles[number].tolist()
        if x0 >= x1:
            continue
        x, z = solids.origin[number].tolist()
        along, across = solids.along[number].tolist(), solids.across[number].tolist()
        half_length, half_width = solid.paint[bodies.LENGTH] / 2, solid.paint[bodies.WIDTH]
        margin = int(view.focal * (0.4 + reach) / max(float(solids.depths[number]), 1.0))
        y0 = max(int(solids.rectangles[number][2]) - ground.top, 0)
        y1 = min(y1 + margin // 2 + 2, view.height) - ground.top
        window = (slice(y0, max(y1, y0)), slice(max(x0 - margin, 0), x1 + margin))
        gx, gz = ground.x[window], ground.z[window]
        if not gx.size:
            continue
        dark = _footprint(gx - x, gz - z, along, across, half_length, half_width, 0.45)
        if sunny:
            cast = _footprint(gx - (x - east * reach * 0.6), gz - (z - north * reach * 0.6), along, across,
                              half_length, half_width, 0.3)  # fmt: skip
            dark = np.minimum(dark, np.maximum(cast, np.float32(0.45)))
        ground.shade[window] *= dark


def _footprint(
    dx: Array, dz: Array, along: list[float], across: list[float], half_length: float, half_width: float, soft: float
) -> Array:
    """0.15 inside a rectangle on the ground, rising to 1 within `soft` metres of it."""
    outside_l = np.abs(dx * np.float32(along[0]) + dz * np.float32(along[1])) - np.float32(half_length)
    outside_w = np.abs(dx * np.float32(across[0]) + dz * np.float32(across[1])) - np.float32(half_width)
    return np.clip(np.maximum(outside_l, outside_w) * np.float32(1 / soft) + np.float32(0.3), 0.15, 1)
