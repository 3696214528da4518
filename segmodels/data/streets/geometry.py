"""Visibility: which surface each pixel sees, and how far away it is.

Everything flat is drawn by one identity: for a plane n . p = c in camera coordinates, 1 / depth along the ray
(x, y, 1) is n . (x, y, 1) / c, linear in the pixel. A convex solid is the ray's stretch between the last plane it
enters by and the first it leaves by, so a box, a gabled house and a car's cabin all are a few additions per pixel
of their bounding rectangle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from segmodels.data.streets.camera import View
from segmodels.data.streets.common import Array, IntArray, pick
from segmodels.data.streets.scene import (
    ASPHALT,
    FACES,
    FIRST_SOLID,
    GRASS,
    KERB,
    KERB_HEIGHT,
    PAVING,
    YARD,
    Road,
    Solid,
)

NEAR = 0.3
FAR = 600.0


class Buffer:
    """The pixels: `nearness` is 1 / depth (0 at infinity), `surface` the id of what is seen (0 the sky)."""

    def __init__(self, height: int, width: int) -> None:
        self.nearness = np.zeros((height, width), np.float32)
        self.surface = np.zeros((height, width), np.intp)


@dataclass(frozen=True)
class Ground:
    """Where the rays of the image's lower rows meet the ground.

    Attributes:
        top: First row.
        x, z: World coordinates, float32 `[rows, W]`.
        u: Metres to the right of the road's middle.
        shade: Factor on the light, for the shadows under things.
    """

    top: int
    x: Array
    z: Array
    u: Array
    shade: Array


def draw_ground(view: View, road: Road, buffer: Buffer) -> Ground:
    """Draw road, kerbs and pavements; the pavement's surface lies `KERB_HEIGHT` above the road's."""
    camera = view.camera
    right, up, forward = camera.rotation.T
    slope = -up / camera.height
    corners = view.linear(slope, slice(None), slice(None, None, view.width - 1)).max(1)
    top = int(np.searchsorted(corners, 1 / FAR))
    rows = slice(top, None)
    low = np.maximum(view.linear(slope, rows), np.float32(1e-4))
    distance = 1 / low
    dx, dz = view.linear(right, rows) * distance, view.linear(forward, rows) * distance
    ratio = np.float32((camera.height - KERB_HEIGHT) / camera.height)
    position = camera.position
    z_low, z_high = dz + position[2], dz * ratio + position[2]
    bend = np.float32(road.bend)
    u_low = dx + position[0] - bend * z_low * z_low
    u_high = dx * ratio + position[0] - bend * z_high * z_high
    upper = _raised(road, u_high, z_high)
    face = _raised(road, u_low, z_low) & ~upper
    z = np.where(upper, z_high, z_low)
    u = np.where(upper, u_high, u_low)
    x = np.where(upper, dx * ratio, dx) + position[0]
    factor = np.where(upper, np.float32(1 / ratio), np.float32(1))
    material = np.where(upper, np.intp(PAVING), np.intp(ASPHALT))
    if face.any():
        factor[face] = (1 + 1 / ratio) / 2
        material[face] = KERB
    _beyond_pavement(road, u, z, material, upper)
    nearness = low * factor
    visible = low > 1 / FAR
    np.copyto(buffer.nearness[rows], nearness, where=visible)
    np.copyto(buffer.surface[rows], material, where=visible)
    return Ground(top, x, z, u, np.ones_like(x))


def _raised(road: Road, u: Array, s: Array) -> np.ndarray:
    across = np.abs(u)
    raised = across > road.half_width
    for street in road.side_streets:
        # The mouth widens towards the road, as kerbs turn the corner.
        corner = np.maximum(np.float32(road.half_width + 1.8) - across, 0)
        raised &= ~((np.abs(s - np.float32(street.s)) < street.half_width + corner) & (u * street.side > 0))
    for u0, s0, half_width, half_length in road.islands:
        raised |= (np.abs(u - np.float32(u0)) < half_width) & (np.abs(s - np.float32(s0)) < half_length)
    return raised


def _beyond_pavement(road: Road, u: Array, s: Array, material: IntArray, upper: np.ndarray) -> None:
    for side, index in ((-1, 0), (1, 1)):
        edge = road.half_width + road.pavement[index]
        outside = u * np.float32(side)
        if road.verge[index] > 0:
            strip = upper & (outside > road.half_width + 0.15) & (outside < road.half_width + road.verge[index])
            material[strip] = GRASS
        material[upper & (outside > edge)] = GRASS if road.grass_yard[index] else YARD


class Solids:
    """All solids of a scene, at one moment, in the frame of one camera."""

    def __init__(self, solids: Sequence[Solid], view: View, time: float) -> None:
        count = len(solids)
        self.view = view
        self.count = count
        local = np.zeros((count, FACES, 4), np.float32)
        local[:, :, 3] = 1e6
        for index, solid in enumerate(solids):
            local[index, : len(solid.planes)] = solid.planes
        self.local_normals = local[:, :, :3]
        frame = np.array(
            [(s.x + s.velocity[0] * time, s.z + s.velocity[1] * time, *s.along, *s.across) for s in solids], np.float32
        ).reshape(count, 6)
        self.origin, self.along, self.across = frame[:, :2], frame[:, 2:4], frame[:, 4:]
        planar = local[:, :, :1] * self.along[:, None] + local[:, :, 2:3] * self.across[:, None]
        self.normals = np.stack([planar[:, :, 0], local[:, :, 1], planar[:, :, 1]], 2)
        offset = local[:, :, 3] + (planar * self.origin[:, None]).sum(2)
        self._planes = self.normals @ view.camera.rotation.T
        self._offsets = offset - self.normals @ view.camera.position
        self._corners(solids)

    def _corners(self, solids: Sequence[Solid]) -> None:
        box = np.array([s.box for s in solids], np.float32).reshape(self.count, 3, 2)
        pick = np.array([[i >> 2 & 1, i >> 1 & 1, i & 1] for i in range(8)])
        local = box[:, [0, 1, 2], :][:, np.arange(3), pick]
        planar = local[:, :, :1] * self.along[:, None] + local[:, :, 2:] * self.across[:, None] + self.origin[:, None]
        world = np.stack([planar[:, :, 0], local[:, :, 1], planar[:, :, 1]], 2)
        self.rectangles, self.depths = bounding_rectangles(self.view, self.view.camera.to_camera(world))

    def draw(self, buffer: Buffer) -> None:
        """Draw every solid with a depth test."""
        view = self.view
        safe = np.where(np.abs(self._offsets) < 1e-4, np.float32(1e-4), self._offsets)
        slopes = (self._planes / safe[:, :, None]).tolist()
        front = (self._offsets < 0).tolist()
        used = (self._offsets < 1e5).tolist()
        rectangles, closest = self.rectangles.tolist(), self.depths.tolist()
        # Near ones first: most of what stands behind them then is skipped whole.
        for index in np.argsort(self.depths, kind="stable").tolist():
            x0, x1, y0, y1 = rectangles[index]
            if x0 >= x1 or y0 >= y1:
                continue
            if closest[index] > NEAR and buffer.nearness[y0:y1, x0:x1].min() >= 1 / closest[index]:
                continue
            xs, ys = view.xs[x0:x1], view.ys[y0:y1]
            nearness = buffer.nearness[y0:y1, x0:x1]
            surface = buffer.surface[y0:y1, x0:x1]
            enter: Array | None = None
            first = FIRST_SOLID + index * FACES
            face: np.ndarray | int = first
            leave: Array | None = None
            for number, (a, b, c) in enumerate(slopes[index]):
                if not used[index][number]:
                    break
                value = (xs * np.float32(a) + np.float32(c)) + ys * np.float32(b)
                if not front[index][number]:
                    leave = value if leave is None else np.maximum(leave, value, out=leave)
                elif enter is None:
                    enter, face = value, first + number
                else:
                    if isinstance(face, int):
                        face = np.full(value.shape, face, np.intp)
                    np.copyto(face, first + number, where=value < enter)
                    np.minimum(enter, value, out=enter)
            if enter is None:
                continue
            mask = enter > nearness
            if leave is not None:
                mask &= enter > leave
            np.copyto(nearness, enter, where=mask)
            np.copyto(surface, face, where=mask)


def bounding_rectangles(view: View, corners: Array) -> tuple[IntArray, Array]:
    """Pixel rectangles (x0, x1, y0, y1) that hold convex bodies, `[N, 4]`, empty where nothing is seen.

    Args:
        view: The camera and the image.
        corners: Corners of the bodies in camera coordinates, `[N, 8, 3]`.

    Returns:
        The rectangles, and the depth of the nearest corner of each body.
    """
    depth = corners[:, :, 2]
    nearest = depth.min(1)
    points = view.project(np.where(depth[..., None] < NEAR, np.float32(np.nan), corners))
    rectangles = np.zeros((len(corners), 4), np.int32)
    straddling = (nearest < NEAR) & (depth.max(1) > NEAR)
    whole = nearest >= NEAR
    rectangles[whole] = _pixels(view, points[whole])
    for index in np.flatnonzero(straddling):
        # Edges are cut at the near plane; all pairs of corners hold the edges.
        body = corners[index]
        ahead, behind = body[body[:, 2] >= NEAR], body[body[:, 2] < NEAR]
        share = (ahead[:, None, 2:] - NEAR) / (ahead[:, None, 2:] - behind[None, :, 2:])
        cut = ahead[:, None] + (behind[None] - ahead[:, None]) * share
        rectangles[index] = _pixels(view, view.project(np.concatenate([ahead, cut.reshape(-1, 3)]))[None])[0]
    return rectangles, nearest


def _pixels(view: View, points: Array) -> IntArray:
    low, high = np.floor(points.min(1)), np.ceil(points.max(1))
    limits = np.array([view.width, view.height], np.float32)
    low, high = np.clip(low, 0, limits), np.clip(high, 0, limits)
    return np.stack([low[:, 0], high[:, 0], low[:, 1], high[:, 1]], 1).astype(np.int32)


@dataclass(frozen=True)
class Points:
    """Visible points of one kind of surface.

    Attributes:
        index: Their pixels in the flattened image, `[n]`.
        depth: `[n]`, metres.
        x, y, z: World coordinates, `[n]`.
    """

    index: IntArray
    depth: Array
    x: Array
    y: Array
    z: Array


def world_points(view: View, buffer: Buffer, index: IntArray) -> Points:
    """Return the points that these pixels see."""
    depth = 1 / pick(buffer.nearness.ravel(), index)
    dx, dy = pick(view.grid[0], index) * depth, pick(view.grid[1], index) * depth
    world = []
    for axis in range(3):
        a, b, c = view.camera.rotation[:, axis]
        world.append(dx * a + dy * b + (depth * c + view.camera.position[axis]))
    return Points(index, depth, world[0], world[1], world[2])
