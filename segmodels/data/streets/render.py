"""From a key (seed, split, index) to a frame: scene, geometry, shading, billboards, camera effects."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from segmodels.data.streets import billboards, effects, shading
from segmodels.data.streets.camera import Camera, View
from segmodels.data.streets.classes import FENCE, PAVEMENT, ROAD, SKY, TREE
from segmodels.data.streets.common import Array, Dice, pick
from segmodels.data.streets.geometry import Buffer, Solids, draw_ground
from segmodels.data.streets.layout import make_scene
from segmodels.data.streets.scene import FACES, FIRST_SOLID, Scene

TARGETS = ("instances", "depth", "normals")
FRAMES_PER_SECOND = 10.0
# Labels of the surface ids below FIRST_SOLID: void, asphalt, paving, kerb, grass, yard.
_GROUND_LABELS = (SKY, ROAD, PAVEMENT, PAVEMENT, TREE, PAVEMENT, SKY, SKY)


@dataclass(frozen=True)
class Frame:
    """One rendered image with its truth; what was not asked for is None.

    Attributes:
        image: RGB, uint8 `[H, W, 3]`.
        label: Class ids of `CLASSES`, uint8 `[H, W]`.
        instances: 0 for stuff, an id of its own for each car, person, cyclist, tree, pole and sign, uint16 `[H, W]`.
        depth: Metres along the optical axis, float32 `[H, W]`; infinite in the sky.
        normals: Unit vectors in camera coordinates (x right, y down, z forward), float32 `[H, W, 3]`; zero in the sky.
        flow: Motion (x, y) in pixels from this frame to the next, float32 `[H, W, 2]`; only in sequences.
    """

    image: NDArray[np.uint8]
    label: NDArray[np.uint8]
    instances: NDArray[np.uint16] | None = None
    depth: Array | None = None
    normals: Array | None = None
    flow: Array | None = None


def render(
    seed: int, split: str, index: int, *, height: int = 240, width: int = 320, targets: Collection[str] = ()
) -> Frame:
    """Render the frame that belongs to a key; the same key gives the same bytes in every order and process.

    Args:
        seed: Seed of the whole dataset, >= 0.
        split: Name of the split.
        index: Number of the frame in the split, >= 0.
        height: Of the image, pixels.
        width: Of the image, pixels.
        targets: Further truth to return, any of `instances`, `depth`, `normals`.

    Raises:
        ValueError: A target is unknown.
    """
    _check(targets)
    scene = make_scene(Dice(seed, split, index))
    return Shot(scene, 0.0, height, width).frame(Dice(seed, split, index, 1), targets)


def render_sequence(
    seed: int,
    split: str,
    index: int,
    *,
    frames: int,
    height: int = 240,
    width: int = 320,
    targets: Collection[str] = (),
) -> list[Frame]:
    """Render the same street with a moving camera and moving traffic, ten frames a second.

    The first frame is the one that `render` gives. Every frame carries the true flow to the next, the last one too.
    Other arguments as in `render`.
    """
    _check(targets)
    scene = make_scene(Dice(seed, split, index))
    shots = [Shot(scene, number / FRAMES_PER_SECOND, height, width) for number in range(frames)]
    result = []
    for number, shot in enumerate(shots):
        frame = shot.frame(Dice(seed, split, index, number + 1), targets)
        result.append(replace(frame, flow=shot.flow((number + 1) / FRAMES_PER_SECOND)))
    return result


def camera_at(scene: Scene, time: float) -> Camera:
    """Return the camera after it has followed the road for `time` seconds."""
    start, road = scene.camera, scene.road
    z = start.z + scene.speed * time
    x = start.x + road.centre(z) - road.centre(start.z)
    yaw = start.yaw + road.heading(z) - road.heading(start.z) + scene.turn * time
    return replace(start, x=x, z=z, yaw=yaw)


class Shot:
    """One moment of a scene, drawn step by step: `see`, `shade`, `cover`, `develop`."""

    def __init__(self, scene: Scene, time: float, height: int, width: int) -> None:
        self.scene, self.time = scene, time
        self.view = View(camera_at(scene, time), height, width)
        self.buffer = Buffer(height, width)

    def frame(self, dice: Dice, targets: Collection[str]) -> Frame:
        """Return all steps, and the truth that was asked for."""
        self.see()
        self.shade()
        self.cover()
        image = self.develop(dice)
        surface = self.buffer.surface
        return Frame(
            image,
            pick(self._labels(), surface),
            pick(self._instances(), surface) if "instances" in targets else None,
            self.depth() if "depth" in targets else None,
            self._normals().take(surface, axis=0) if "normals" in targets else None,
        )

    def see(self) -> None:
        """Find the opaque surface behind every pixel."""
        self.ground = draw_ground(self.view, self.scene.road, self.buffer)
        self.solids = Solids(self.scene.solids, self.view, self.time)
        self.solids.draw(self.buffer)
        self.first = FIRST_SOLID + FACES * self.solids.count

    def shade(self) -> None:
        """Give these surfaces their colours, in linear light."""
        shading.contact_shadows(self.scene, self.view, self.ground, self.solids)
        self.color = shading.shade(self.scene, self.view, self.buffer, self.ground, self.solids)

    def cover(self) -> None:
        """Draw what has soft edges over them."""
        self.placed = billboards.place(self.scene, self.view, self.time)
        billboards.draw(self.scene, self.view, self.buffer, self.color, self.placed, self.first)

    def develop(self, dice: Dice) -> NDArray[np.uint8]:
        """Take the picture; uses the colours up."""
        return effects.develop(self.color, self.scene.light, self.scene.optics, dice)

    def _labels(self) -> NDArray[np.uint8]:
        scene = self.scene
        solids = np.repeat(np.array([s.label for s in scene.solids], np.uint8), FACES)
        flat = [b.label for b in scene.billboards] + [b.label for b in scene.bars] + [FENCE] * len(scene.fences)
        return np.concatenate([np.array(_GROUND_LABELS, np.uint8), solids, np.array(flat, np.uint8)])

    def _instances(self) -> NDArray[np.uint16]:
        scene = self.scene
        solids = np.repeat(np.array([s.instance for s in scene.solids], np.uint16), FACES)
        flat = [b.instance for b in scene.billboards] + [b.instance for b in scene.bars] + [0] * len(scene.fences)
        return np.concatenate([np.zeros(FIRST_SOLID, np.uint16), solids, np.array(flat, np.uint16)])

    def depth(self) -> Array:
        """Return metres along the optical axis, infinite in the sky."""
        with np.errstate(divide="ignore"):
            return 1 / self.buffer.nearness

    def _normals(self) -> Array:
        """Return a normal for every surface id, `[ids, 3]`; a kerb's looks at the road's middle, upwards by half."""
        rotation = self.view.camera.rotation
        ground = np.tile(rotation[:, 1], (FIRST_SOLID, 1))
        ground[0] = 0
        solids = self.solids.normals.reshape(-1, 3) @ rotation.T
        flat = np.tile(np.array([0, 0, -1], np.float32), (len(self.placed.feet), 1))
        panels = [np.zeros((0, 3), np.float32)]
        for fence in self.scene.fences:
            foot, along, upwards = billboards.fence_frame(self.view, fence)
            normal = np.cross(along, upwards)
            normal /= np.linalg.norm(normal)
            panels.append((normal if normal @ foot < 0 else -normal)[None])
        return np.concatenate([ground, solids, flat, *panels]).astype(np.float32)

    def flow(self, later: float) -> Array:
        """Return where each pixel's surface point goes until `later`, minus where it is; call after `frame`."""
        view, scene = self.view, self.scene
        next_view = View(camera_at(scene, later), view.height, view.width)
        rays = np.empty((view.height, view.width, 3), np.float32)
        rays[..., 0], rays[..., 1], rays[..., 2] = view.xs, view.ys, 1
        nearness = self.buffer.nearness[..., None]
        surface = self.buffer.surface
        # Directions in the sky are points at infinity: they turn with the camera and do not shift.
        finite = nearness > 0
        points = rays / np.where(finite, nearness, 1)
        world = points @ view.camera.rotation
        velocity = np.zeros((self.first, 3), np.float32)
        moving = np.array([s.velocity for s in scene.solids], np.float32).reshape(-1, 2)
        velocity[FIRST_SOLID:, [0, 2]] = np.repeat(moving, FACES, 0)
        step = velocity.take(np.minimum(surface, self.first - 1), axis=0) * np.float32(later - self.time)
        shift = step + (view.camera.position - next_view.camera.position)
        moved = (world + np.where(finite, shift, 0)) @ next_view.camera.rotation.T
        # Billboards turn with the image plane: a point keeps its place on them.
        boards = surface - self.first
        on_board = (boards >= 0) & (boards < len(self.placed.feet))
        if on_board.any():
            number = boards[on_board]
            foot = self.placed.camera
            next_foot = billboards.place(scene, next_view, later).camera
            moved[on_board] = points[on_board] + (next_foot - foot)[number]
        moved[..., 2] = np.maximum(moved[..., 2], np.float32(0.05))
        here = np.stack(np.broadcast_arrays(np.arange(view.width) + 0.5, np.arange(view.height)[:, None] + 0.5), -1)
        return (next_view.project(moved) - here).astype(np.float32)


def _check(targets: Collection[str]) -> None:
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"{target}: no such target; streets has {', '.join(TARGETS)}")
