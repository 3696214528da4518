"""What is drawn over the opaque scene with soft edges: sprites, poles and fences.

Colour is blended by coverage, so that twigs, railings and far poles come out as thin as they are; the label takes
the outline that an annotator would draw.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from segmodels.data.streets.camera import View
from segmodels.data.streets.common import Array, modulo, pick
from segmodels.data.streets.geometry import Buffer, bounding_rectangles
from segmodels.data.streets.scene import Bar, Billboard, Fence, Light, Scene
from segmodels.data.streets.shading import sunlight
from segmodels.data.streets.sprites import atlas

_NEAREST = 1.2
_SMALLEST = 1.5  # pixels; a sprite that is lower is not drawn


@dataclass(frozen=True)
class Placed:
    """Feet of all billboards and bars of a scene at one moment.

    Attributes:
        feet: World coordinates, `[n, 3]`, billboards first.
        camera: The same in camera coordinates.
    """

    feet: Array
    camera: Array


def place(scene: Scene, view: View, time: float) -> Placed:
    """Return where billboards and bars stand at `time`."""
    feet = [(b.x + b.velocity[0] * time, b.lift, b.z + b.velocity[1] * time) for b in scene.billboards]
    feet += [(b.x, b.lift, b.z) for b in scene.bars]
    world = np.asarray(feet, np.float32).reshape(-1, 3)
    return Placed(world, view.camera.to_camera(world))


def draw(scene: Scene, view: View, buffer: Buffer, color: Array, placed: Placed, first: int) -> None:
    """Draw billboards and bars from far to near, then the fences; `first` is the first surface id."""
    light = scene.light
    lit = np.zeros(len(placed.feet), np.float32)
    if light.sun_color[1] > 0:
        x, y, z = placed.feet.T
        lit = sunlight(scene, x, y + np.float32(1), z) * np.float32(0.4)
    depth = placed.camera[:, 2]
    # Far to near; what stands at the same depth keeps its order.
    order = np.argsort(-depth, kind="stable")
    count = len(scene.billboards)
    for number in order.tolist():
        distance = float(depth[number])
        if distance < _NEAREST or distance > 400:
            continue
        foot = placed.camera[number]
        glow = [0.8 * a + float(lit[number]) * s for a, s in zip(light.ambient, light.sun_color, strict=True)]
        if number < count:
            _sprite(view, buffer, color, scene.billboards[number], foot, glow, light, first + number)
        else:
            _bar(view, buffer, color, scene.bars[number - count], foot, glow, light, first + number)
    for number, fence in enumerate(scene.fences):
        _fence(scene, view, buffer, color, fence, first + len(placed.feet) + number)


def _haze(light: Light, distance: float) -> float:
    return 1.0 / (1.0 + distance / light.visibility)


def _sprite(
    view: View, buffer: Buffer, color: Array, board: Billboard, foot: Array, glow: list[float], light: Light, ident: int
) -> None:
    x, y, distance = foot.tolist()
    scale = view.focal / distance
    height, width = board.height * scale, board.width * scale
    left, top = view.width / 2 + x * scale - width / 2, view.height / 2 + y * scale - height
    if height < _SMALLEST or left > view.width or left + width < 0 or top > view.height or top + height < 0:
        return
    x0, x1 = max(int(left), 0), min(int(left + width) + 1, view.width)
    y0, y1 = max(int(top), 0), min(int(top + height) + 1, view.height)
    sprite = atlas().sprites[board.sprite]
    level = 0
    while level + 1 < len(sprite.parts) and sprite.parts[level + 1].shape[1] >= 0.9 * height:
        level += 1
    parts, outline = sprite.parts[level], sprite.label[level]
    rows = ((np.arange(y0, y1) + 0.5 - top) * (parts.shape[1] / height)).astype(np.int32)
    columns = ((np.arange(x0, x1) + 0.5 - left) * (parts.shape[2] / width)).astype(np.int32)
    inside_y, inside_x = (rows >= 0) & (rows < parts.shape[1]), (columns >= 0) & (columns < parts.shape[2])
    y0, rows = y0 + int(inside_y.argmax()), rows[inside_y]
    x0, columns = x0 + int(inside_x.argmax()), columns[inside_x]
    if not len(rows) or not len(columns):
        return
    if board.mirror:
        columns = parts.shape[2] - 1 - columns
    window = (slice(y0, y0 + len(rows)), slice(x0, x0 + len(columns)))
    nearness = buffer.nearness[window]
    ours = np.float32(1 / distance)
    visible = nearness < ours
    if not visible.any():
        return
    texels = (rows[:, None] * parts.shape[2] + columns).ravel()
    stack = parts.reshape(parts.shape[0], -1).take(texels, axis=1, mode="clip")
    stack *= visible.ravel()
    haze = _haze(light, distance)
    palette = np.array([[c * g for c, g in zip(p, glow, strict=True)] for p in board.palette], np.float32)
    if board.emission:
        palette[-1] = board.palette[-1]
    palette = palette * np.float32(haze) + np.array(light.fog, np.float32) * np.float32(1 - haze)
    premultiplied = (palette.T @ stack).reshape(3, *visible.shape)
    target = color[:, window[0], window[1]]
    target *= (1 - stack.sum(0)).reshape(visible.shape)
    target += premultiplied
    labelled = visible & (pick(outline.ravel(), texels) > np.float32(0.42)).reshape(visible.shape)
    np.copyto(nearness, ours, where=labelled)
    np.copyto(buffer.surface[window], ident, where=labelled)


def _bar(
    view: View, buffer: Buffer, color: Array, bar: Bar, foot: Array, glow: list[float], light: Light, ident: int
) -> None:
    x, y, distance = foot.tolist()
    scale = view.focal / distance
    middle = view.width / 2 + (x + bar.offset) * scale
    # At 320 pixels a far pole would vanish; cameras and annotators keep it at about a pixel.
    half = max(bar.width * scale, 0.75) / 2
    bottom = view.height / 2 + y * scale
    top = bottom - max(bar.height * scale, 0.75)
    x0, x1 = max(int(middle - half), 0), min(int(middle + half) + 1, view.width)
    first_y = int(top + 0.5)
    y0, y1 = max(first_y, 0), min(max(int(bottom + 0.5), first_y + 1), view.height)
    if x0 >= x1 or y0 >= y1:
        return
    window = (slice(y0, y1), slice(x0, x1))
    nearness = buffer.nearness[window]
    ours = np.float32(1 / distance)
    visible = nearness < ours
    columns = np.arange(x0, x1, dtype=np.float32)
    cover = np.minimum(columns + 1, middle + half) - np.maximum(columns, middle - half)
    alpha = visible * np.maximum(cover, 0).astype(np.float32)
    haze = _haze(light, distance)
    shade = [c * g * haze + f * (1 - haze) for c, g, f in zip(bar.color, glow, light.fog, strict=True)]
    shades = np.array(shade, np.float32)[:, None, None]
    if x1 - x0 > 2:  # round poles are lighter on one side
        shades = shades * (1 + np.float32(0.35) * np.sin((columns + np.float32(0.5 - middle)) * np.float32(1.2 / half)))
    target = color[:, window[0], window[1]]
    target += (shades - target) * alpha
    # The label is at least a pixel wide.
    first = int(middle - half + 0.5)
    last = max(int(middle + half + 0.5), first + 1)
    labelled = slice(max(first - x0, 0), max(last - x0, 0))
    np.copyto(nearness[:, labelled], ours, where=visible[:, labelled])
    np.copyto(buffer.surface[window][:, labelled], ident, where=visible[:, labelled])


def fence_frame(view: View, fence: Fence) -> tuple[Array, Array, Array]:
    """Foot of the panel's start, its vector along and its vector upwards, in camera coordinates."""
    (x0, z0), (x1, z1) = fence.start, fence.end
    foot = view.camera.to_camera(np.array([x0, fence.lift, z0], np.float32))
    rotation = view.camera.rotation
    along = rotation @ np.array([x1 - x0, 0, z1 - z0], np.float32)
    return foot, along, rotation[:, 1] * np.float32(fence.height)


def _fence(scene: Scene, view: View, buffer: Buffer, color: Array, fence: Fence, ident: int) -> None:
    foot, along, upwards = fence_frame(view, fence)
    corners = np.stack([foot, foot + along, foot + upwards, foot + along + upwards] * 2)[None]
    rectangle, _ = bounding_rectangles(view, corners)
    x0, x1, y0, y1 = rectangle[0].tolist()
    normal = np.cross(along, upwards)
    offset = float(normal @ foot)
    if x0 >= x1 or y0 >= y1 or abs(offset) < 1e-3:
        return
    rows, columns = slice(y0, y1), slice(x0, x1)
    nearness = view.linear(normal / np.float32(offset), rows, columns)
    length, height = float(np.linalg.norm(along)), fence.height
    # Position along and up, times nearness, is linear in the pixel as well.
    a = view.linear(along / np.float32(length), rows, columns) - nearness * np.float32(foot @ along / length)
    b = view.linear(upwards / np.float32(height), rows, columns) - nearness * np.float32(foot @ upwards / height)
    mask = (nearness > buffer.nearness[rows, columns]) & (a > 0) & (b > 0)
    mask &= (a < nearness * np.float32(length)) & (b < nearness * np.float32(height))
    local_y, local_x = np.nonzero(mask)
    if not len(local_y):
        return
    near = nearness[local_y, local_x]
    depth = 1 / near
    along_m, up_m = a[local_y, local_x] * depth, b[local_y, local_x] * depth
    pixel = depth * np.float32(1 / view.focal)
    slant = max(abs(float(normal[2] / np.linalg.norm(normal))), 0.15)
    alpha = np.maximum(_bars(along_m, fence.period, fence.bar, pixel / np.float32(slant)), np.float32(fence.fill))
    for rail in fence.rails:
        cover = np.clip((np.float32(0.03) - np.abs(up_m - np.float32(rail * height))) / pixel + np.float32(0.5), 0, 1)
        alpha = np.maximum(alpha, cover * np.minimum(np.float32(0.06) / pixel, 1))
    index = (local_y + y0) * view.width + local_x + x0
    light = scene.light
    lit = np.float32(0.0)
    if light.sun_color[1] > 0:
        (sx, sz), (ex, ez) = fence.start, fence.end
        points = np.array([[(sx + ex) / 2, 0.5, (sz + ez) / 2]], np.float32)
        lit = sunlight(scene, points[:, 0], points[:, 1], points[:, 2])[0] * np.float32(0.5)
    keep = 1 - alpha
    haze = 1 / (1 + depth * np.float32(1 / light.visibility))
    for channel in range(3):
        glow = 0.75 * light.ambient[channel] + float(lit) * light.sun_color[channel]
        shade = np.float32(fence.color[channel] * glow) * haze + np.float32(light.fog[channel]) * (1 - haze)
        plane = color[channel].ravel()
        plane[index] = plane.take(index) * keep + shade * alpha
    buffer.nearness.ravel()[index] = near
    buffer.surface.ravel()[index] = ident


def _bars(position: Array, period: float, width: float, footprint: Array) -> Array:
    offset = np.abs(modulo(position, period) - np.float32(period / 2))
    sharp = np.clip((np.float32(width / 2) - offset) / footprint + np.float32(0.5), 0, 1)
    sharp *= np.minimum(np.float32(width) / footprint, 1)
    blend = np.clip(footprint * np.float32(1.5 / period) - np.float32(0.4), 0, 1)
    return sharp + (np.float32(width / period) - sharp) * blend
