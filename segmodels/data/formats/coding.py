"""How the labels of somebody's own data code their classes: by id, as black and white, or by colour.

All labels are looked at once (`survey`), that decides the coding and, where no file names them, the classes; then each
label is turned into class ids (`Coding.ids`).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data.folder import IGNORE_INDEX, MAX_CLASSES, ClassInfo, DatasetError, reading
from segmodels.data.formats.classes import Color, NamedClass
from segmodels.data.formats.common import refuse
from segmodels.data.images import PixelBudget, open_image
from segmodels.runtime import available_cores

MAX_COLORS = 64
BACKGROUNDS = frozenset({"background", "backdrop", "bg", "other", "others", "rest", "none"})
NEUTRAL = (112, 112, 112)
LOSSY = frozenset({".jpg", ".jpeg", ".webp"})


@dataclass(frozen=True)
class RawLabel:
    """A label file as it is.

    Attributes:
        values: Ids `[H, W]`, or colours packed as 0xRRGGBB `[H, W]`.
        colored: Whether `values` are colours.
        palette: Of a palette image: the colour of each index, packed.
        exact: The file is an 8-bit single-channel PNG, as the dataset folder has it.
    """

    values: np.ndarray
    colored: bool
    palette: tuple[int, ...] | None
    exact: bool


def read_raw(path: Path) -> RawLabel:
    """Read a label of any mode.

    Raises:
        DatasetError: The file is unreadable, or of a kind that loses ids.
    """
    if path.suffix.lower() in LOSSY:
        raise DatasetError(f"{path}: a {path.suffix} file does not keep exact ids; save labels as PNG")
    with reading(path, "a label"), open_image(path) as image:
        if image.mode in ("RGB", "RGBA"):
            packed = np.asarray(image.convert("RGB")).astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
            return RawLabel(packed, True, None, False)
        if image.mode in ("L", "P"):
            palette = _palette(image) if image.mode == "P" else None
            return RawLabel(np.asarray(image), False, palette, image.format == "PNG")
        if image.mode in ("1", "I", "I;16", "I;16B"):
            return RawLabel(np.asarray(image).astype(np.int64), False, None, False)
        raise DatasetError(f"{path}: mode {image.mode} is no label; save it as an 8-bit PNG of class ids")


@dataclass(frozen=True)
class Survey:
    """What labels hold: the values (ids or packed colours), and the first palette."""

    values: frozenset[int]
    colored: bool
    palette: tuple[int, ...] | None


def survey(labels: Sequence[Path]) -> Survey:
    """Look at every label. Ids that were saved with three equal channels are ids.

    Raises:
        DatasetError: Labels are unreadable (all of them are listed), or some are colours and some are ids.
    """
    budget = PixelBudget()
    with ThreadPoolExecutor(available_cores()) as pool:
        looked = list(pool.map(lambda path: _look(path, budget), labels))
    refuse([found for found in looked if isinstance(found, str)])
    found = [entry for entry in looked if isinstance(entry, Survey)]
    colors = frozenset[int]().union(*(entry.values for entry in found if entry.colored))
    ids = frozenset[int]().union(*(entry.values for entry in found if not entry.colored))
    if colors and ids and not all(_is_gray(color) for color in colors):
        mask, plain = (labels[[entry.colored for entry in found].index(kind)] for kind in (True, False))
        raise DatasetError(f"{mask}: is a colour mask, but {plain} holds ids; use one of the two for all labels")
    if ids:
        ids |= {color & 255 for color in colors}
    return Survey(ids or colors, not ids, next((entry.palette for entry in found if entry.palette), None))


@dataclass(frozen=True)
class Coding:
    """The classes, and the class of each value that a label may hold."""

    classes: tuple[ClassInfo, ...]
    table: dict[int, int]
    colored: bool
    by_palette: dict[int, int]

    def ids(self, path: Path) -> Path | np.ndarray:
        """Return the label's class ids, uint8 `[H, W]`; the file itself where it holds just these.

        Ids that no class has stay as they are, for the validation to name.

        Raises:
            DatasetError: The label has a colour that no class has, or an id above 255.
        """
        raw = read_raw(path)
        values, table = raw.values, self._table(raw)
        if raw.colored and not self.colored:
            values = values & 255
        held = _held(values)
        ids = [table.get(v, -1 if self.colored else v) for v in held]
        for value, index in zip(held, ids, strict=True):
            if not 0 <= index <= IGNORE_INDEX:
                raise DatasetError(_stray(path, values, value, self.colored))
        if raw.exact and ids == held:
            return path
        lookup = np.zeros(held[-1] + 1, np.uint8)
        lookup[held] = ids
        found: np.ndarray = lookup[values]
        return found

    def _table(self, raw: RawLabel) -> dict[int, int]:
        """Return a palette image is read by its colours where these are the classes', by its indices otherwise."""
        if raw.palette is None or not self.by_palette:
            return self.table
        used = [i for i in _held(raw.values) if i != IGNORE_INDEX]
        if any(i >= len(raw.palette) or raw.palette[i] not in self.by_palette for i in used):
            return self.table
        return {i: self.by_palette[raw.palette[i]] for i in used} | {IGNORE_INDEX: IGNORE_INDEX}


def decide(found: Survey, named: Sequence[NamedClass] | None, where: str) -> Coding:
    """Return the coding of the labels.

    Without a list of classes, every colour (or id below 255) that occurs is a class; labels of only 0 and 255 are
    black-and-white masks: background and foreground.

    Args:
        found: What the labels hold.
        named: The classes that a file names, or None.
        where: The folder of the labels, for errors.

    Raises:
        DatasetError: Colours without a list that gives them, or too many for a mask.
    """
    if found.colored and _are_ids(found, named):
        found = Survey(frozenset(color & 255 for color in found.values), False, None)
    if found.colored:
        return _by_color(found, named, where)
    if found.values <= {0, 255} and 255 in found.values and (named is None or len(named) == 2):
        names = named or [NamedClass("background"), NamedClass("foreground")]
        return Coding(_infos(names, None), {0: 0, 255: 1}, False, {})
    if named is None:
        used = sorted(v for v in found.values if v != IGNORE_INDEX)
        if used and used[-1] >= MAX_CLASSES:
            raise DatasetError(
                f"{where}: labels hold {used[-1]}; class ids are 0..{MAX_CLASSES - 1}, and {IGNORE_INDEX} is ignored"
            )
        names = [NamedClass(f"class_{v}", _in_palette(found.palette, v)) for v in used]
        return Coding(_infos(names, None), {v: i for i, v in enumerate(used)}, False, {})
    return Coding(_infos(named, found.palette), _renumbered(named), False, _colors(named))


def _by_color(found: Survey, named: Sequence[NamedClass] | None, where: str) -> Coding:
    if named is None:
        if len(found.values) > MAX_COLORS:
            raise DatasetError(
                f"{where}: {len(found.values)} colours are too many for labels; "
                "write classes.txt beside the images, `name r g b` a line, or save labels as PNGs of class ids"
            )
        named = [NamedClass(f"color_{v:06x}", _unpack(v)) for v in sorted(found.values)]
    if any(c.color is None for c in named):
        seen = ", ".join(str(_unpack(v)) for v in sorted(found.values)[:8])
        raise DatasetError(f"{where}: labels are colours ({seen}, …); give each class its own: `name r g b` a line")
    table = _colors(named)
    return Coding(_infos(named, None), table, True, table)


def _look(path: Path, budget: PixelBudget) -> Survey | str:
    try:
        with budget.hold_image(path):
            raw = read_raw(path)
            return Survey(frozenset(_held(raw.values)), raw.colored, raw.palette)
    except DatasetError as error:
        return str(error)


def _held(values: np.ndarray) -> list[int]:
    """Return the distinct values, ascending; much faster than `np.unique` for ids and colours."""
    if values.min() < 0 or values.max() >= 1 << 24:
        return [int(v) for v in np.unique(values)]
    seen = np.zeros(int(values.max()) + 1, bool)
    seen[values.ravel()] = True
    return [int(v) for v in np.flatnonzero(seen)]


def _are_ids(found: Survey, named: Sequence[NamedClass] | None) -> bool:
    """Tell whether three-channel labels are really ids: all grey, dark (or black and white), and no class's colours."""
    if named is not None and found.values <= set(_colors(named)):
        return False
    return all(_is_gray(c) and (c & 255 in (0, 255) or c & 255 < MAX_COLORS) for c in found.values)


def _is_gray(color: int) -> bool:
    return color == (color & 255) * 0x010101


def _palette(image: Image.Image) -> tuple[int, ...]:
    flat = image.getpalette("RGB") or []
    return tuple((r << 16) + (g << 8) + b for r, g, b in zip(flat[::3], flat[1::3], flat[2::3], strict=False))


def _colors(named: Sequence[NamedClass]) -> dict[int, int]:
    ids = _renumbered(named)
    return {_pack(c.color): ids[i] for i, c in enumerate(named) if c.color is not None}


def _renumbered(named: Sequence[NamedClass]) -> dict[int, int]:
    """Return line number -> class id; void lines are ignored pixels and take no id."""
    table: dict[int, int] = {}
    for i, entry in enumerate(named):
        table[i] = IGNORE_INDEX if entry.is_void else sum(not c.is_void for c in named[:i])
    return table


def _infos(named: Sequence[NamedClass], palette: tuple[int, ...] | None) -> tuple[ClassInfo, ...]:
    from segmodels.data.palette import default_palette

    spare = default_palette(len(named))
    # What is not a thing of its own gets no colour that would hide the picture.
    spare = [NEUTRAL if c.name.lower() in BACKGROUNDS else color for c, color in zip(named, spare, strict=True)]
    return tuple(
        ClassInfo(c.name, c.color or _in_palette(palette, i) or spare[i]) for i, c in enumerate(named) if not c.is_void
    )


def _in_palette(palette: tuple[int, ...] | None, index: int) -> Color | None:
    return _unpack(palette[index]) if palette and index < len(palette) else None


def _stray(path: Path, values: np.ndarray, value: int, colored: bool) -> str:
    y, x = np.argwhere(values == value)[0].tolist()
    if colored:
        return f"{path}: colour {_unpack(value)} at x={x}, y={y} is no class's; add it to classes.txt, or name it void"
    return f"{path}: id {value} at x={x}, y={y} cannot be a class id; these are 0..254, and 255 is ignored"


def _pack(color: Color) -> int:
    return (color[0] << 16) + (color[1] << 8) + color[2]


def _unpack(value: int) -> Color:
    return value >> 16, value >> 8 & 255, value & 255
