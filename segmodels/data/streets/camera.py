"""The pinhole camera.

World: x to the right, y up, z along the street, metres. Camera (OpenCV): x right, y down, z forward along the axis.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from segmodels.data.streets.common import Array


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and looks.

    Attributes:
        x, height, z: Position in the world.
        yaw: To the right, radians.
        pitch: Downwards, radians.
        roll: Clockwise, radians.
        focal: Focal length over the image's width.
    """

    x: float
    height: float
    z: float
    yaw: float
    pitch: float
    roll: float
    focal: float

    @cached_property
    def position(self) -> Array:
        return np.array([self.x, self.height, self.z], np.float32)

    @cached_property
    def rotation(self) -> Array:
        """World to camera, orthogonal `[3, 3]` (a reflection too: the world's y goes up, the camera's down)."""
        sin, cos = math.sin(self.yaw), math.cos(self.yaw)
        turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
        sin, cos = math.sin(self.pitch), math.cos(self.pitch)
        tilt = np.array([[1, 0, 0], [0, cos, -sin], [0, sin, cos]])
        sin, cos = math.sin(self.roll), math.cos(self.roll)
        spin = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]])
        return (spin @ tilt @ turn @ np.diag([1.0, -1.0, 1.0])).astype(np.float32)

    def to_camera(self, points: Array) -> Array:
        """World points `[..., 3]` in camera coordinates."""
        return (points - self.position) @ self.rotation.T


class View:
    """A camera with the pixels of an image: centres of pixels in units of the focal length."""

    def __init__(self, camera: Camera, height: int, width: int) -> None:
        self.camera, self.height, self.width = camera, height, width
        self.focal = camera.focal * width
        self.xs = ((np.arange(width) + 0.5 - width / 2) / self.focal).astype(np.float32)
        self.ys = ((np.arange(height) + 0.5 - height / 2) / self.focal).astype(np.float32)[:, None]

    @cached_property
    def grid(self) -> tuple[Array, Array]:
        """x and y of every pixel, flattened."""
        shape = (self.height, self.width)
        return np.broadcast_to(self.xs, shape).ravel(), np.broadcast_to(self.ys, shape).ravel()

    def linear(self, coefficients: Array, rows: slice = slice(None), columns: slice = slice(None)) -> Array:
        """Return a function a x + b y + c of the ray direction (x, y, 1), for a window of pixels `[h, w]`."""
        a, b, c = coefficients
        return (self.xs[columns] * a + c) + self.ys[rows] * b

    def project(self, points: Array) -> Array:
        """Camera points `[..., 3]` as pixel coordinates `[..., 2]` (x, y); the first pixel's centre is (0.5, 0.5)."""
        scaled = points[..., :2] * (self.focal / points[..., 2:])
        return scaled + np.array([self.width / 2, self.height / 2], np.float32)
