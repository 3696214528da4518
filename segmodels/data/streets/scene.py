"""What a scene is made of: plain data between the layout, which invents it, and the renderer, which draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from segmodels.data.streets.camera import Camera
from segmodels.data.streets.common import Array, Color

KERB_HEIGHT = 0.12

# Ids of what is not an object in the surface buffer.
VOID, ASPHALT, PAVING, KERB, GRASS, YARD = range(6)
FIRST_SOLID = 8
FACES = 8  # surface ids that a solid takes, one a face


@dataclass(frozen=True)
class SideStreet:
    """A street that leaves the road at `s`; `side` is -1 (left) or 1."""

    side: int
    s: float
    half_width: float


@dataclass(frozen=True)
class Markings:
    """What is painted on the road; lengths in metres, positions along the street `s` and across it `u`."""

    centre: str  # none, dashed, solid, double
    dash: tuple[float, float]
    lanes: tuple[float, ...]
    edge: str  # none, white, yellow
    stop: tuple[float, ...]
    zebra: tuple[float, ...]
    zebra_period: float
    zigzag: tuple[float, float] | None
    hatching: tuple[float, float] | None
    box: tuple[float, float] | None
    arrows: tuple[tuple[float, float], ...]
    paint: Color
    wear: float


@dataclass(frozen=True)
class Road:
    """The ground: a road along z with a slight bend, pavements, side streets, yards."""

    half_width: float
    pavement: tuple[float, float]
    bend: float
    verge: tuple[float, float]  # width of grass between pavement and yard, left and right
    grass_yard: tuple[bool, bool]
    side_streets: tuple[SideStreet, ...]
    islands: tuple[tuple[float, float, float, float], ...]  # u, s, half width, half length
    markings: Markings
    asphalt: Color
    paving: Color
    slab: float
    kerb: Color
    grass: Color
    wetness: float
    texture: float

    def centre(self, s: float) -> float:
        """x of the road's middle at `s`."""
        return self.bend * s * s

    def heading(self, s: float) -> float:
        """Direction of the road at `s`, radians to the right of z."""
        return math.atan(2 * self.bend * s)

    def place(self, u: float, s: float) -> tuple[float, float]:
        """World (x, z) of a point `u` to the right of the road's middle."""
        return self.centre(s) + u, s


@dataclass(frozen=True)
class Light:
    """Sun, sky and air; radiances are relative to a white surface in full daylight."""

    sun: tuple[float, float, float]  # unit vector towards it
    sun_color: Color
    ambient: Color
    zenith: Color
    horizon: Color
    cloud_color: Color
    cloud_cover: float
    cloud_contrast: float
    cloud_offset: tuple[float, float]
    fog: Color
    visibility: float
    glare: float


@dataclass(frozen=True)
class Optics:
    """What the camera does to the light."""

    exposure: float
    black: float
    contrast: float
    saturation: float
    tint: Color
    vignette: float
    blur: float
    motion: float
    chroma_blur: bool
    noise: float
    sharpen: float
    smear: float | None  # column, 0..1, of a bright streak below the sun


@dataclass(frozen=True)
class Solid:
    """A convex body: planes n . p <= c in its own frame (l along, y up, w across) that stands at (x, z).

    `along` is the world direction (x, z) of l; w points to its left, (-along.z, along.x), unless `flip`.
    """

    label: int
    material: int
    planes: tuple[tuple[float, float, float, float], ...]
    box: tuple[float, float, float, float, float, float]  # l, y, w ranges that hold it
    x: float
    z: float
    along: tuple[float, float]
    flip: bool = False
    instance: int = 0
    velocity: tuple[float, float] = (0.0, 0.0)
    paint: tuple[float, ...] = ()

    @property
    def across(self) -> tuple[float, float]:
        sign = -1.0 if self.flip else 1.0
        return -self.along[1] * sign, self.along[0] * sign


@dataclass(frozen=True)
class Billboard:
    """A flat sprite parallel to the image; (x, z) is its foot, `lift` its height above the ground."""

    label: int
    sprite: int
    palette: tuple[Color, ...]
    x: float
    z: float
    lift: float
    height: float
    width: float
    instance: int = 0
    mirror: bool = False
    velocity: tuple[float, float] = (0.0, 0.0)
    emission: float = 0.0


@dataclass(frozen=True)
class Bar:
    """A plain rectangle parallel to the image, for poles and their arms; `offset` shifts it sideways by metres."""

    label: int
    color: Color
    x: float
    z: float
    lift: float
    height: float
    width: float
    offset: float = 0.0
    instance: int = 0


@dataclass(frozen=True)
class Fence:
    """A see-through panel from (x0, z0) to (x1, z1)."""

    color: Color
    start: tuple[float, float]
    end: tuple[float, float]
    height: float
    lift: float
    period: float
    bar: float
    rails: tuple[float, ...]
    fill: float  # opacity between the bars


@dataclass
class Scene:
    """Everything in one street at time 0."""

    camera: Camera
    speed: float
    turn: float
    road: Road
    light: Light
    optics: Optics
    solids: list[Solid] = field(default_factory=list)
    billboards: list[Billboard] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    fences: list[Fence] = field(default_factory=list)
    shadow_height: Array = field(default_factory=lambda: np.zeros((2, 256), np.float32))
    instances: int = 0

    def new_instance(self) -> int:
        self.instances += 1
        return self.instances
