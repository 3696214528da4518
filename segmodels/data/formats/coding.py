"""How the labels of somebody's own data code their classes: by id, as black and white, or by colour.

What all labels hold (`raw_labels.survey`) and a list of classes decide the coding (`decide`); each label is then turned
into class ids (`Coding.ids`). What can be read in two ways is not decided here: the error shows both readings and the
key that settles it (`data.values`, `data.threshold`, `data.coding`, `data.background`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, MAX_CLASSES, ClassInfo, DatasetError
from segmodels.data.formats.classes import Color, NamedClass
from segmodels.data.formats.raw_labels import RawLabel, Survey, as_ids, held_values, is_gray, read_raw
from segmodels.data.palette import from_hex

if TYPE_CHECKING:
    from segmodels.data.formats.layout import Choices

MAX_COLORS = 64
# Ids without names that reach this far are more likely grey levels.
MAX_UNNAMED = 64
OCCURRING = "occurring"
BACKGROUNDS = frozenset({"background", "backdrop", "bg", "other", "others", "rest", "none"})
NEUTRAL = (112, 112, 112)


@dataclass(frozen=True)
class Coding:
    """The classes, and the class of each value that a label may hold.

    Attributes:
        classes: The classes.
        table: Id, or packed colour, -> class id.
        colored: Whether it is colours that count.
        by_palette: Packed colour -> class id, for palette images whose colours are those of the classes.
        threshold: Values from here on are class 1, those below 0; in place of the table.
        use_palette: Palette images count by their colours always, never, or (None) where these are the classes'.
        closed: The table has every value that may occur.
    """

    classes: tuple[ClassInfo, ...]
    table: Mapping[int, int]
    colored: bool = False
    by_palette: Mapping[int, int] = field(default_factory=dict)
    threshold: int | None = None
    use_palette: bool | None = None
    closed: bool = False

    def ids(self, path: Path) -> Path | np.ndarray:
        """Return the label's class ids, uint8 `[H, W]`; the file itself where it holds just these.

        Ids that no class has stay as they are, for the validation to name.

        Raises:
            DatasetError: The label has a colour that no class has, or an id above 255.
        """
        raw = read_raw(path)
        values = raw.values
        if raw.colored and not self.colored:
            values = values & 255
        if self.threshold is not None:
            return (values >= self.threshold).astype(np.uint8)
        table = self._table(raw)
        held = held_values(values)
        closed = self.colored or self.closed
        ids = [table.get(v, -1 if closed else v) for v in held]
        for value, index in zip(held, ids, strict=True):
            if not 0 <= index <= IGNORE_INDEX:
                raise DatasetError(_stray(path, values, value, raw.colored and self.colored, self.closed))
        if raw.exact and ids == held:
            return path
        lookup = np.zeros(held[-1] + 1, np.uint8)
        lookup[held] = ids
        result: np.ndarray = lookup[values]
        return result

    def _table(self, raw: RawLabel) -> Mapping[int, int]:
        """Return the table for a file: of a palette image that counts by its colours, that of its indices."""
        if raw.palette is None or not self.by_palette or self.use_palette is False:
            return self.table
        used = _drawn(raw.palette, held_values(raw.values))
        if self.use_palette is None and not all(color in self.by_palette for color in used.values()):
            return self.table
        table = {i: self.by_palette.get(color, -1) for i, color in used.items()}
        return {IGNORE_INDEX: IGNORE_INDEX} | table


def decide(seen: Sequence[Survey], named: Sequence[NamedClass] | None, choices: Choices, where: str) -> Coding:
    """Return the coding of the labels.

    Args:
        seen: What each label holds.
        named: The classes that a file names, or None.
        choices: What a person has settled.
        where: The folder of the labels, for errors.

    Raises:
        DatasetError: The labels can be read in two ways, or have colours and nothing says which class each is.
    """
    values = frozenset[int]().union(*(entry.values for entry in seen))
    colored = any(entry.colored for entry in seen)
    if colored and _are_ids(values, named, choices):
        seen, colored = [as_ids(entry) for entry in seen], False
        values = frozenset(color & 255 for color in values)
    if choices.threshold is not None:
        return _thresholded(values, colored, named, choices, where)
    if isinstance(choices.values, Mapping):
        named = _valued(choices.values)
    drawn = [entry for entry in seen if entry.palette is not None]
    if choices.coding is None:
        _check_palettes(drawn, named, where)
    if choices.coding == "color" and not colored:
        if plain := next((entry.path for entry in seen if entry.palette is None), None):
            raise DatasetError(f"{plain}: has no palette, and data.coding is color; save all labels alike")
        if named is None:
            held = {c for entry in seen for c in _drawn(entry.palette or (), entry.values).values()}
            named = _colors_as_classes(held, choices, where)
        table = _colors(named)
        return Coding(_infos(named, None), table, True, table, use_palette=True)
    if colored:
        named = named if named is not None else _colors_as_classes(values, choices, where)
        if any(c.color is None for c in named):
            shown = ", ".join(str(_unpack(v)) for v in sorted(values)[:8])
            raise DatasetError(
                f"{where}: labels are colours ({shown}, …); give each class its own: `name r g b` a line"
            )
        table = _colors(named)
        return Coding(_infos(named, None), table, True, table)
    ignored = {v for v in choices.ignore if isinstance(v, int)}
    palette = next((entry.palette for entry in drawn), None)
    if values <= {0, 255} and 255 in values and not ignored and not isinstance(choices.values, Mapping):
        return _black_and_white(named, choices, where)
    if named is None:
        named = _numbered(seen, values, palette, ignored, choices, where)
    # A value that is ignored is no class either.
    named = [NamedClass("void", c.color, v) if (v := _raw_id(i, c)) in ignored else c for i, c in enumerate(named)]
    table = dict.fromkeys(ignored, IGNORE_INDEX) | _renumbered(named)
    by_palette = {} if choices.coding == "index" else _colors(named)
    return Coding(_infos(named, palette), table, False, by_palette, closed=isinstance(choices.values, Mapping))


def _numbered(
    seen: Sequence[Survey],
    values: frozenset[int],
    palette: tuple[int, ...] | None,
    ignored: Set[int],
    choices: Choices,
    where: str,
) -> list[NamedClass]:
    """Return classes without names, one for each id up to the largest; ids keep their numbers.

    Raises:
        DatasetError: The values may as well be grey levels.
    """
    used = sorted(v for v in values if v != IGNORE_INDEX and v not in ignored)
    if used and used[-1] > IGNORE_INDEX:
        raise DatasetError(f"{where}: labels hold {used[-1]}; class ids are 0..{MAX_CLASSES - 1}, and 255 is ignored")
    if choices.values == OCCURRING:
        return [NamedClass(f"class_{v}", _in_palette(palette, v), v) for v in used]
    if IGNORE_INDEX in values and IGNORE_INDEX not in ignored and used == [0, 1]:
        bits = next((e.path for e in seen if 1 in e.values and IGNORE_INDEX not in e.values), None)
        mask = next((e.path for e in seen if IGNORE_INDEX in e.values and 1 not in e.values), None)
        both = any({1, IGNORE_INDEX} <= e.values for e in seen)
        if bits and mask and not both:
            raise DatasetError(
                f"{where}: {mask} holds 0 and 255, {bits} holds 0 and 1; if both are masks of one class, set "
                "data.values to {0: background, 1: foreground, 255: foreground}, and if 255 is void, to "
                "{0: background, 1: foreground, 255: void}"
            )
    count = used[-1] + 1 if used else 0
    if count > MAX_UNNAMED or len(used) * 2 < count:
        file = next(entry.path for entry in seen if used[-1] in entry.values)
        shown = ", ".join(map(str, used[:6])) + (", …" if len(used) > 6 else "")
        raise DatasetError(
            f"{where}: labels hold {shown} (and {used[-1]}, in {file}); as class ids these are {len(used)} of {count} "
            "classes without names, as grey levels a mask: list the classes in classes.txt, or name the values with "
            "data.values, e.g. {0: background, 128: void, 255: foreground}, or set data.threshold: 128 for a mask"
        )
    return [NamedClass(f"class_{v}", _in_palette(palette, v)) for v in range(count)]


def _black_and_white(named: Sequence[NamedClass] | None, choices: Choices, where: str) -> Coding:
    """Return the coding of masks of 0 and 255.

    Raises:
        DatasetError: The list of classes says neither that 255 is one of them nor that it is void.
    """
    if named is None:
        named = [NamedClass(choices.background or "background"), NamedClass("foreground")]
        if choices.background == "ignore":
            return Coding(_infos(named[1:], None), {0: IGNORE_INDEX, 255: 0})
        return Coding(_infos(named, None), {0: 0, 255: 1})
    kept = [c for c in named if not c.is_void]
    if len(kept) == 2 and len(named) == 2:
        return Coding(_infos(named, None), {0: 0, 255: 1})
    if len(kept) == 1 and choices.background is not None:
        if choices.background == "ignore":
            return Coding(_infos(kept, None), {0: IGNORE_INDEX, 255: 0})
        return Coding(_infos([NamedClass(choices.background), *kept], None), {0: 0, 255: 1})
    if len(kept) == 1:
        raise DatasetError(
            f"{where}: labels hold 0 and 255, and one class is named, {kept[0].name}; if 255 is {kept[0].name}, set "
            "data.background to the name of the rest, or to ignore; if 0 is it and 255 is void, set data.values: "
            f"{{0: {kept[0].name}, 255: void}}"
        )
    raise DatasetError(
        f"{where}: labels hold 0 and 255 alone, and {len(kept)} classes are named; if they are masks, name two; if "
        f"0 is {kept[0].name} and 255 is void, set data.values: {{0: {kept[0].name}, 255: void}}"
    )


def _thresholded(
    values: frozenset[int], colored: bool, named: Sequence[NamedClass] | None, choices: Choices, where: str
) -> Coding:
    if colored:
        raise DatasetError(f"{where}: data.threshold is for grey masks, and these labels are colours; take it out")
    names = list(named or [NamedClass(choices.background or "background"), NamedClass("foreground")])
    if len(names) == 1:
        names = [NamedClass(choices.background or "background"), *names]
    if len(names) != 2:
        raise DatasetError(
            f"{where}: data.threshold gives two classes, and {len(names)} are named; take one of them out"
        )
    return Coding(_infos(names, None), {}, threshold=choices.threshold)


def _check_palettes(drawn: Sequence[Survey], named: Sequence[NamedClass] | None, where: str) -> None:
    """Refuse palette images whose indices and colours say different things.

    Raises:
        DatasetError: They do, and nobody has settled which count.
    """
    colors = _colors(named) if named is not None else {}
    ids = _renumbered(named) if named is not None else {}
    first: dict[int, tuple[int, Path]] = {}
    for entry in drawn:
        assert entry.palette is not None
        used = _drawn(entry.palette, entry.values)
        matching = [i for i, color in used.items() if color in colors]
        if colors and matching and len(matching) < len(used):
            odd = next(i for i in used if i not in matching)
            if any(colors[used[i]] != ids.get(i) for i in matching):
                raise DatasetError(
                    f"{entry.path}: some of its colours are those of the classes, but index {odd} is drawn in "
                    f"{_unpack(used[odd])}, which is no class's; set data.coding to index if its indices are the ids, "
                    "or to color and list that colour"
                )
        if colors and len(matching) == len(used):
            continue
        for index, color in used.items():
            before, file = first.setdefault(index, (color, entry.path))
            if before != color:
                raise DatasetError(
                    f"{where}: index {index} is drawn in {_unpack(before)} in {file}, and in {_unpack(color)} in "
                    f"{entry.path}; set data.coding to index if the indices are the ids, or to color if the colours "
                    "are the classes"
                )


def _colors_as_classes(colors: set[int] | frozenset[int], choices: Choices, where: str) -> list[NamedClass]:
    listed = sorted(colors)
    if len(listed) > MAX_COLORS:
        raise DatasetError(
            f"{where}: {len(listed)} colours are too many for labels; "
            "write classes.txt beside the images, `name r g b` a line, or save labels as PNGs of class ids"
        )
    if choices.values == OCCURRING:
        return [NamedClass(f"color_{v:06x}", _unpack(v)) for v in listed]
    lines = "; ".join(f"name {r} {g} {b}" for r, g, b in map(_unpack, listed[:12])) + (
        "; …" if len(listed) > 12 else ""
    )
    raise DatasetError(
        f"{where}: labels are colours, and nothing says which class each is; write classes.txt beside the images, a "
        f"line for each ({lines}; `void` for what counts nowhere), or set data.values: {OCCURRING} to make each "
        "colour that occurs a class"
    )


def _valued(values: Mapping[str | int, str]) -> list[NamedClass]:
    """Return `data.values`, raw value or colour -> name, as a list of classes."""
    listed = []
    for raw, name in values.items():
        text = str(raw).strip()
        if text.isdecimal():
            listed.append(NamedClass(name, None, int(text)))
            continue
        numbers = text.replace(",", " ").split()
        if re.fullmatch("#[0-9a-fA-F]{6}", text):
            numbers = list(map(str, from_hex(text)))
        if len(numbers) != 3 or not all(n.isdecimal() and int(n) < 256 for n in numbers):
            raise DatasetError(f"data.values: {text!r} is no value; write an id, `r g b` or `#rrggbb`")
        listed.append(NamedClass(name, (int(numbers[0]), int(numbers[1]), int(numbers[2]))))
    return listed


def _drawn(palette: Sequence[int], values: Sequence[int] | frozenset[int]) -> dict[int, int]:
    """Return index -> packed colour of the indices that occur; -1 where the palette has none."""
    return {i: palette[i] if i < len(palette) else -1 for i in values if i != IGNORE_INDEX}


def _are_ids(values: frozenset[int], named: Sequence[NamedClass] | None, choices: Choices) -> bool:
    """Tell whether three-channel labels are really ids: all grey, dark (or black and white), and no class's colours."""
    if named is not None and values <= set(_colors(named)):
        return False
    if not all(map(is_gray, values)):
        return False
    return choices.threshold is not None or all(v & 255 in (0, 255) or v & 255 < MAX_COLORS for v in values)


def _colors(named: Sequence[NamedClass]) -> dict[int, int]:
    ids = list(_renumbered(named).values()) if not _repeats(named) else [_ids_by_name(named)[c.name] for c in named]
    return {_pack(c.color): ids[i] for i, c in enumerate(named) if c.color is not None}


def _renumbered(named: Sequence[NamedClass]) -> dict[int, int]:
    """Return raw id -> class id; a line's raw id is its number unless it has one. Void lines take no class id."""
    by_name = _ids_by_name(named)
    return {_raw_id(i, c): by_name[c.name] for i, c in enumerate(named)}


def _raw_id(line: int, entry: NamedClass) -> int:
    return line if entry.value is None else entry.value


def _ids_by_name(named: Sequence[NamedClass]) -> dict[str, int]:
    """Return name -> class id; several values of one name are one class."""
    ids: dict[str, int] = {}
    for entry in named:
        if entry.is_void:
            ids[entry.name] = IGNORE_INDEX
        elif entry.name not in ids:
            ids[entry.name] = sum(v != IGNORE_INDEX for v in ids.values())
    return ids


def _repeats(named: Sequence[NamedClass]) -> bool:
    return len({c.name for c in named}) < len(named)


def _infos(named: Sequence[NamedClass], palette: tuple[int, ...] | None) -> tuple[ClassInfo, ...]:
    from segmodels.data.palette import default_palette

    spare = default_palette(len(named))
    # What is not a thing of its own gets no colour that would hide the picture.
    spare = [NEUTRAL if c.name.lower() in BACKGROUNDS else color for c, color in zip(named, spare, strict=True)]
    infos: dict[str, ClassInfo] = {}
    for i, c in enumerate(named):
        if not c.is_void and c.name not in infos:
            infos[c.name] = ClassInfo(c.name, c.color or _in_palette(palette, _raw_id(i, c)) or spare[i])
    return tuple(infos.values())


def _in_palette(palette: tuple[int, ...] | None, index: int) -> Color | None:
    return _unpack(palette[index]) if palette and index < len(palette) else None


def _stray(path: Path, values: np.ndarray, value: int, colored: bool, closed: bool) -> str:
    y, x = np.argwhere(values == value)[0].tolist()
    if closed and not colored:
        return f"{path}: value {value} at x={x}, y={y} is not in data.values; add it, as void where it counts nowhere"
    if colored:
        return f"{path}: colour {_unpack(value)} at x={x}, y={y} is no class's; add it to classes.txt, or name it void"
    return f"{path}: id {value} at x={x}, y={y} cannot be a class id; these are 0..254, and 255 is ignored"


def _pack(color: Color) -> int:
    return (color[0] << 16) + (color[1] << 8) + color[2]


def _unpack(value: int) -> Color:
    return value >> 16, value >> 8 & 255, value & 255
