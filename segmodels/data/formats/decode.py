"""How layouts code truth in files: by id, by colour, by shapes, by run lengths, one file for each part.

Each function returns what decodes when its turn has come (`layout.Decoder`). A value that the layout does not have is
an error with its file and place; nothing is taken for something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from segmodels.data.folder import IGNORE_INDEX, DatasetError, reading
from segmodels.data.formats.layout import Decoder, void_of
from segmodels.data.formats.raw_labels import read_raw
from segmodels.data.images import MAX_PIXELS, open_image
from segmodels.data.palette import Color


def by_id(path: Path, table: Mapping[int, int]) -> Decoder:
    """Decode a file of raw ids, 8 or 16 bits, with raw id -> class index."""

    def decode() -> np.ndarray:
        values = values_of(path)
        return looked_up(values, table, lambda v: f"id {v}", path)

    return decode


def by_color(path: Path, table: Mapping[Color, int]) -> Decoder:
    """Decode a file of colours with colour -> class index; a palette image counts by its colours."""
    packed = {(r << 16) + (g << 8) + b: index for (r, g, b), index in table.items()}

    def decode() -> np.ndarray:
        return looked_up(packed_colors(path), packed, lambda v: f"colour {v >> 16, v >> 8 & 255, v & 255}", path)

    return decode


def by_mask(path: Path, inside: int = 1, outside: int = 0) -> Decoder:
    """Decode a black and white mask, of any mode that shows it so, with the class index of white and of black."""

    def decode() -> np.ndarray:
        packed = packed_colors(path)
        held = np.unique(packed)
        if not set(held.tolist()) <= {0, 0xFFFFFF}:
            other = int(next(v for v in held if v not in (0, 0xFFFFFF)))
            y, x = np.argwhere(packed == other)[0].tolist()
            color = (other >> 16, other >> 8 & 255, other & 255)
            raise DatasetError(f"{path}: colour {color} at x={x}, y={y}; this layout's masks are black and white")
        return np.where(packed > 0, np.uint8(inside), np.uint8(outside))

    return decode


def packed_colors(path: Path) -> np.ndarray:
    """Return an image's colours as 0xRRGGBB, int32 `[H, W]`; of a palette image its palette's.

    Raises:
        DatasetError: It is unreadable.
    """
    with reading(path, "a label"), open_image(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    packed: np.ndarray = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    return packed


def values_of(path: Path) -> np.ndarray:
    """Return a label's raw values `[H, W]`: ids of 8 or 16 bits, or the indices of a palette.

    Raises:
        DatasetError: It is unreadable, or has colours.
    """
    raw = read_raw(path)
    if not raw.colored:
        return raw.values
    grey = raw.values & 255
    if (raw.values != grey * 0x010101).any():
        raise DatasetError(f"{path}: holds colours; this layout's labels are class ids in one channel")
    return grey


def looked_up(values: np.ndarray, table: Mapping[int, int], said: Callable[[int], str], path: Path) -> np.ndarray:
    """Return the class index of each value; uint16 where a class or void is above 255.

    Raises:
        DatasetError: A value is not in the table; it is named with its first place.
    """
    held = np.unique(values)
    for value in held.tolist():
        if value not in table:
            y, x = np.argwhere(values == value)[0].tolist()
            raise DatasetError(f"{path}: {said(value)} at x={x}, y={y} is not in this layout's table of classes")
    wide = max(table.values(), default=0) > IGNORE_INDEX
    indices = np.array([table[value] for value in held.tolist()], np.uint16 if wide else np.uint8)
    if held.size and 0 <= held[0] and held[-1] < 1 << 24:
        lookup = np.zeros(int(held[-1]) + 1, indices.dtype)
        lookup[held] = indices
        result: np.ndarray = lookup[values]
        return result
    return indices[np.searchsorted(held, values)]


@dataclass(frozen=True)
class Shape:
    """Something that is drawn: polygons (outer rings, and holes), or a mask.

    Attributes:
        index: Its class index.
        rings: Of x, y in pixels, `[N, 2]` each; what lies inside an even number of them is outside (holes).
        mask: bool `[H, W]`, in place of rings.
        disc: (x, y, radius) of a circle, in place of rings.
        width: Of a line along the first ring, in pixels; 0 fills.
        crowd: A group whose members nobody told apart.
    """

    index: int
    rings: tuple[np.ndarray, ...] = ()
    mask: np.ndarray | None = None
    disc: tuple[float, float, float] | None = None
    width: int = 0
    crowd: bool = False

    def inside(self, height: int, width: int) -> np.ndarray:
        """Return the pixels that it covers, bool `[height, width]`."""
        if self.mask is not None:
            if self.mask.shape != (height, width):
                raise DatasetError(f"a mask is {self.mask.shape[::-1]}, and its image {width, height} (width, height)")
            return self.mask.astype(bool)
        covered = np.zeros((height, width), bool)
        for ring in self.rings:
            covered ^= _filled(ring, height, width, self.width)
        if self.disc is not None:
            x, y, radius = self.disc
            canvas = Image.new("1", (width, height))
            ImageDraw.Draw(canvas).ellipse((x - radius, y - radius, x + radius, y + radius), fill=1, outline=1)
            covered |= np.asarray(canvas)
        return covered


def drawn(
    size: Callable[[], tuple[int, int]], shapes: Callable[[], Sequence[Shape]], undrawn: int, classes: Sequence[object]
) -> Decoder:
    """Decode shapes of these classes: each is drawn over those before it, on pixels of the index `undrawn`.

    `size` gives (height, width).
    """

    def decode() -> np.ndarray:
        height, width = _possible(*size())
        out = np.full((height, width), undrawn, np.uint8 if void_of(classes) == IGNORE_INDEX else np.uint16)
        for shape in shapes():
            out[shape.inside(height, width)] = shape.index
        return out

    return decode


def numbered(size: Callable[[], tuple[int, int]], shapes: Callable[[], Sequence[Shape]]) -> Decoder:
    """Decode the numbers of shapes, 1 for the first, each over those before it; 0 where there is none."""

    def decode() -> np.ndarray:
        height, width = _possible(*size())
        out = np.zeros((height, width), np.int32)
        for number, shape in enumerate(shapes(), 1):
            out[shape.inside(height, width)] = number
        return out

    return decode


def placed(part: np.ndarray, left: int, top: int, height: int, width: int) -> np.ndarray:
    """Return a mask that covers a part of an image as bool `[height, width]`; what lies outside is cut off."""
    mask = np.zeros((height, width), bool)
    rows, columns = slice(max(0, top), max(0, top + part.shape[0])), slice(max(0, left), max(0, left + part.shape[1]))
    inside = mask[rows, columns]
    inside[:] = part[max(0, -top) :, max(0, -left) :][: inside.shape[0], : inside.shape[1]]
    return mask


def _possible(height: int, width: int) -> tuple[int, int]:
    if not (height > 0 and width > 0 and height * width <= MAX_PIXELS):
        raise DatasetError(f"a size of {width} x {height} pixels is not possible")
    return height, width


def ring(points: Any) -> np.ndarray:
    """Return points, pairs or one flat list, as x and y `[N, 2]`.

    Raises:
        ValueError: They are no points.
    """
    flat = np.asarray(points, np.float64)
    if flat.ndim == 1 and flat.size % 2 == 0:
        flat = flat.reshape(-1, 2)
    if flat.ndim != 2 or flat.shape[1] != 2 or not np.isfinite(flat).all():
        raise ValueError("a polygon is not a list of points")
    return flat


def _filled(points: np.ndarray, height: int, width: int, line: int) -> np.ndarray:
    canvas = Image.new("1", (width, height))
    pairs = [tuple(p) for p in points.tolist()]
    draw = ImageDraw.Draw(canvas)
    if line:
        draw.line(pairs, fill=1, width=line)
    elif len(pairs) >= 3:
        draw.polygon(pairs, fill=1, outline=1)
    elif len(pairs) == 2:
        draw.rectangle([*map(min, zip(*pairs, strict=True)), *map(max, zip(*pairs, strict=True))], fill=1)
    return np.asarray(canvas)


def image_size(path: Path) -> tuple[int, int]:
    """Return (height, width) of an image's stored pixels; its header alone is read.

    Raises:
        DatasetError: It is no image.
    """
    with reading(path, "an image"), open_image(path) as image:
        return image.height, image.width


def coco_mask(segmentation: Any, height: int, width: int) -> np.ndarray:
    """Return what COCO's `segmentation` covers, bool `[height, width]`: polygons as pycocotools draws them, or runs.

    Raises:
        DatasetError: It is of another size, or damaged.
    """
    if isinstance(segmentation, Mapping):
        return coco_runs(segmentation, height, width)
    from pycocotools import mask

    rings = [ring(points).ravel().tolist() for points in segmentation if len(points) >= 6]
    if not rings:
        return np.zeros((height, width), bool)
    code = mask.merge(mask.frPyObjects(rings, height, width))
    return np.asarray(mask.decode(code)).astype(bool)


def coco_runs(code: Mapping[str, Any], height: int, width: int) -> np.ndarray:
    """Return a COCO run-length code as bool `[height, width]`; its counts are a list, or packed into a string.

    pycocotools is not asked: it writes beyond its memory where runs are longer than the mask.

    Raises:
        DatasetError: It is of another size, or its runs do not cover it.
    """
    size, counts = code.get("size"), code.get("counts")
    if size is None or [int(v) for v in size] != [height, width]:
        raise DatasetError(f"a mask's size is {size}, and its image's [{height}, {width}]")
    runs = _unpacked(counts) if isinstance(counts, str | bytes) else [int(v) for v in counts or ()]
    if sum(runs) != height * width or min(runs, default=0) < 0:
        raise DatasetError(f"the runs of a mask cover {sum(runs)} pixels, and its image has {height * width}")
    return runs_mask(runs, height * width).reshape(width, height).T


def runs_mask(runs: Sequence[int], size: int) -> np.ndarray:
    """Return lengths of runs, outside first, as bool `[size]`."""
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs)[:size]


def _unpacked(text: str | bytes) -> list[int]:
    """Return the runs of COCO's packed code: six bits a character, low ones first, from the third on as differences."""
    data = text.encode() if isinstance(text, str) else text
    runs: list[int] = []
    value = shift = 0
    for byte in data:
        bits = byte - 48
        if not 0 <= bits < 64 or shift > 60:
            raise DatasetError("the packed runs of a mask are damaged")
        value |= (bits & 0x1F) << shift
        shift += 5
        if not bits & 0x20:
            if bits & 0x10:
                value |= -1 << shift
            runs.append(value + (runs[-2] if len(runs) > 2 else 0))
            value = shift = 0
    return runs


def instances_of(values: np.ndarray) -> np.ndarray:
    """Return raw numbers of objects (0 for none) as 1, 2, 3, …, int32; numbers of files may be anything."""
    held = np.unique(values)
    held = held[held != 0]
    lookup = np.concatenate([[0], np.arange(1, len(held) + 1)])
    places = np.searchsorted(held, values) + 1
    return np.where(values == 0, 0, lookup[np.minimum(places, len(held))]).astype(np.int32)
