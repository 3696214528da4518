"""Outlines of a class map along the edges of its pixels.

Each region of one class, connected over sides, is one polygon with its holes. Corners are those of pixels: (0, 0) is
the upper left corner of the first one, x goes right, y down. Filling the polygons gives the class map back, exactly.
No ring touches itself; a hole may touch the outline, or another hole, in single points.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

# Directions in the order of a clockwise walk around a pixel (y goes down): along its top to the east, its right side to
# the south, its bottom to the west, its left side to the north.
EAST, SOUTH, WEST, NORTH = range(4)
MAX_EDGES = 4_000_000
GEOJSON_FRAME = "pixels; origin at the upper left corner of the image, x to the right, y down"


class TooManyEdgesError(ValueError):
    """The class map is so ragged that its outlines would be larger than the map by far."""


@dataclass(frozen=True)
class Polygon:
    """A region of one class.

    Attributes:
        label: Class id.
        outline: Corners (x, y), int64 `[K, 2]`, counter-clockwise in a frame whose y goes up; the first one is not
            repeated.
        holes: The same of each hole, the other way round.
        area: Pixels.
    """

    label: int
    outline: np.ndarray
    holes: tuple[np.ndarray, ...]
    area: int

    @property
    def box(self) -> tuple[int, int, int, int]:
        """x and y of the upper left corner, width, height."""
        (left, top), (right, bottom) = self.outline.min(0), self.outline.max(0)
        return int(left), int(top), int(right - left), int(bottom - top)


def polygons(classes: np.ndarray) -> list[Polygon]:
    """Return the regions of a class map, uint8 `[H, W]`, by class and then from top to bottom.

    Raises:
        TooManyEdgesError: It has more than four million pixel edges between regions.
    """
    regions, labels = _regions(classes)
    starts, directions, owners = _edges(regions)
    if len(starts) > MAX_EDGES:
        raise TooManyEdgesError(f"{len(starts)} pixel edges lie between its regions")
    following = _following(starts, directions, owners, regions.shape)
    order, ends = _walk(following)
    width = regions.shape[1] + 1
    corners = np.stack([starts % width, starts // width], 1)[order]
    turns = directions[order] != np.roll(directions[order], 1)
    first = np.concatenate([[0], ends[:-1]]).astype(np.int64)
    turns[first] = directions[order[first]] != directions[order[ends - 1]]
    outlines: list[np.ndarray | None] = [None] * len(labels)
    holes: list[list[np.ndarray]] = [[] for _ in labels]
    areas = np.bincount(regions.ravel(), minlength=len(labels))
    outer = _areas(corners, first, ends) > 0
    rings = zip(first.tolist(), ends.tolist(), owners[order[first]].tolist(), outer.tolist(), strict=True)
    for begin, end, owner, is_outline in rings:
        ring = corners[begin:end][turns[begin:end]]
        if is_outline:
            outlines[owner] = ring
        else:
            holes[owner].append(ring)
    return [
        Polygon(label, outline, tuple(inner), int(area))
        for label, outline, inner, area in zip(labels, outlines, holes, areas, strict=True)
        if outline is not None
    ]


def coco(
    maps: Sequence[np.ndarray], names: Sequence[str], classes: Sequence[str], shapes: Sequence[Sequence[Polygon]]
) -> dict[str, Any]:
    """Return a COCO document of one or more images.

    COCO's polygons have no holes: each hole is joined to its outline by a way there and back along the same line, which
    encloses nothing. Category ids are the class ids.

    Args:
        maps: Class maps, for their sizes.
        names: File names.
        classes: Names of the classes.
        shapes: The polygons of each map.
    """
    images = [
        {"id": i, "file_name": name, "width": int(label.shape[1]), "height": int(label.shape[0])}
        for i, (label, name) in enumerate(zip(maps, names, strict=True), 1)
    ]
    polygons = [(i, polygon) for i, inside in enumerate(shapes, 1) for polygon in inside]
    annotations = [
        {
            "id": number,
            "image_id": image,
            "category_id": polygon.label,
            "segmentation": [_joined(polygon).ravel().tolist()],
            "area": polygon.area,
            "bbox": list(polygon.box),
            "iscrowd": 0,
        }
        for number, (image, polygon) in enumerate(polygons, 1)
    ]
    categories = [{"id": i, "name": name, "supercategory": ""} for i, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}


def geojson(shapes: Sequence[Polygon], name: str, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> Any:
    """Return a FeatureCollection with a Polygon for each region; coordinates are pixels, not degrees."""
    features = [
        {
            "type": "Feature",
            "geometry": {
                "type": "Polygon",
                "coordinates": [_closed(ring) for ring in (polygon.outline, *polygon.holes)],
            },
            "properties": {
                "class_id": polygon.label,
                "class": classes[polygon.label],
                "color": "#{:02x}{:02x}{:02x}".format(*palette[polygon.label]),
                "area": polygon.area,
            },
        }
        for polygon in shapes
    ]
    return {"type": "FeatureCollection", "image": name, "frame": GEOJSON_FRAME, "features": features}


def _regions(classes: np.ndarray) -> tuple[np.ndarray, list[int]]:
    """Return the number of each pixel's region, `[H, W]` from 0, and the class of each region."""
    regions = np.zeros(classes.shape, np.int32)
    labels: list[int] = []
    for label in np.flatnonzero(np.bincount(classes.ravel(), minlength=1)).tolist():
        mask = classes == label
        components, count = ndimage.label(mask)
        regions[mask] = components[mask] + (len(labels) - 1)
        labels += [label] * count
    return regions, labels


def _edges(regions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return every side of a pixel that another region, or nothing, lies behind.

    Returns:
        The corner at which it starts (row-major among `[H + 1, W + 1]`), its direction, the region that is to its
        right; sides are walked clockwise.
    """
    width = regions.shape[1] + 1
    border = np.pad(regions, 1, constant_values=-1)
    beyond = {
        EAST: border[:-2, 1:-1],
        SOUTH: border[1:-1, 2:],
        WEST: border[2:, 1:-1],
        NORTH: border[1:-1, :-2],
    }
    # From the upper left corner of a pixel to the one at which the side starts.
    offset = {EAST: 0, SOUTH: 1, WEST: width + 1, NORTH: width}
    starts, directions, owners = [], [], []
    for direction, neighbour in beyond.items():
        rows, columns = np.nonzero(regions != neighbour)
        starts.append(rows * width + columns + offset[direction])
        directions.append(np.full(len(rows), direction, np.int8))
        owners.append(regions[rows, columns])
    return np.concatenate(starts), np.concatenate(directions), np.concatenate(owners)


def _following(starts: np.ndarray, directions: np.ndarray, owners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return the edge at which each edge goes on, around the same region."""
    # At most one edge leaves a corner in a direction: the pixel to its right owns it.
    keys = starts * 4 + directions
    ranked = np.argsort(keys)
    ordered = keys[ranked]
    step = np.array([1, shape[1] + 1, -1, -(shape[1] + 1)])
    arrival = (starts + step[directions]) * 4
    following = np.full(len(starts), -1, np.int64)
    # Left before right: where two pixels of a region meet at a corner alone, the walk passes from one to the other, so
    # that no ring comes to a corner twice.
    for turn in (1, 0, 3):
        wanted = arrival + (directions + turn) % 4
        place = np.minimum(np.searchsorted(ordered, wanted), len(ordered) - 1)
        candidate = ranked[place]
        fits = (ordered[place] == wanted) & (owners[candidate] == owners)
        following = np.where(fits, candidate, following)
    return following


def _walk(following: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the edges ring after ring, and where in that order each ring ends."""
    after = following.tolist()
    seen = bytearray(len(after))
    order: list[int] = []
    ends: list[int] = []
    for first in range(len(after)):
        if seen[first]:
            continue
        edge = first
        while not seen[edge]:
            seen[edge] = 1
            order.append(edge)
            edge = after[edge]
        ends.append(len(order))
    return np.array(order, np.int64), np.array(ends, np.int64)


def _areas(corners: np.ndarray, first: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Return the area of each ring, negative where it runs the other way round (the shoelace formula)."""
    following = np.arange(1, len(corners) + 1)
    following[ends - 1] = first
    x, y = corners[:, 0], corners[:, 1]
    twice: np.ndarray = np.add.reduceat(x * y[following] - x[following] * y, first)
    return twice / 2


def _closed(ring: np.ndarray) -> list[list[int]]:
    corners: list[list[int]] = ring.tolist()
    return [*corners, corners[0]]


def _joined(polygon: Polygon) -> np.ndarray:
    """Return outline and holes as one ring: to each hole from the outline's nearest corner, around it, and back."""
    if not polygon.holes:
        return polygon.outline
    tree = cKDTree(polygon.outline)
    visits: dict[int, list[np.ndarray]] = {}
    for hole in polygon.holes:
        distances, nearest = tree.query(hole)
        entry = int(distances.argmin())
        around = np.concatenate([hole[entry:], hole[: entry + 1]])
        visits.setdefault(int(nearest[entry]), []).append(around)
    parts: list[np.ndarray] = []
    done = 0
    for corner, holes in sorted(visits.items()):
        parts.append(polygon.outline[done : corner + 1])
        for around in holes:
            parts += [around, polygon.outline[corner : corner + 1]]
        done = corner + 1
    return np.concatenate([*parts, polygon.outline[done:]])
