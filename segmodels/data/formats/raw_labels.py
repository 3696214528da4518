"""Label files as they are: ids, masks or colours, whatever mode they were saved in; and what all of them hold."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from segmodels.data.folder import DatasetError, reading
from segmodels.data.formats.common import refuse
from segmodels.data.images import PixelBudget, open_image
from segmodels.runtime import available_cores

# A file with more colours is a photograph.
PHOTO = 1 << 16
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
    """Read a label of any mode. One bit is black and white, 0 and 255.

    Raises:
        DatasetError: The file is unreadable, or of a kind that loses ids, or says two things at once.
    """
    if path.suffix.lower() in LOSSY:
        raise DatasetError(f"{path}: a {path.suffix} file does not keep exact ids; save labels as PNG")
    with reading(path, "a label"), open_image(path) as image:
        if (pages := getattr(image, "n_frames", 1)) > 1:
            raise DatasetError(f"{path}: has {pages} pages, and a label is one image; save the page that is meant")
        if image.mode in ("RGB", "RGBA", "LA", "PA"):
            return _colored(image, path)
        if image.mode in ("L", "P"):
            palette = _palette(image) if image.mode == "P" else None
            return RawLabel(np.asarray(image), False, palette, image.format == "PNG")
        if image.mode == "1":
            return RawLabel(np.asarray(image).astype(np.uint8) * np.uint8(255), False, None, False)
        if image.mode in ("I", "I;16", "I;16B"):
            return RawLabel(np.asarray(image).astype(np.int64), False, None, False)
        raise DatasetError(f"{path}: mode {image.mode} is no label; save it as an 8-bit PNG of class ids")


@dataclass(frozen=True)
class Survey:
    """What one label holds: the values (ids or packed colours), and the colours of its indices."""

    path: Path
    values: frozenset[int]
    colored: bool
    palette: tuple[int, ...] | None


def survey(labels: Sequence[Path]) -> list[Survey]:
    """Look at every label. Ids that were saved with three equal channels are ids.

    Raises:
        DatasetError: Labels are unreadable (all of them are listed), or some are colours and some are ids.
    """
    budget = PixelBudget()
    with ThreadPoolExecutor(available_cores()) as pool:
        looked = list(pool.map(lambda path: _look(path, budget), labels))
    refuse([entry for entry in looked if isinstance(entry, str)])
    seen = [entry for entry in looked if isinstance(entry, Survey)]
    masks = [entry for entry in seen if entry.colored]
    plain = next((entry for entry in seen if not entry.colored), None)
    if masks and plain is not None:
        mask = next((entry for entry in masks if not all(map(is_gray, entry.values))), None)
        if mask is not None:
            raise DatasetError(
                f"{mask.path}: is a colour mask, but {plain.path} holds ids; use one of the two for all labels"
            )
        return [entry if not entry.colored else as_ids(entry) for entry in seen]
    return seen


def _look(path: Path, budget: PixelBudget) -> Survey | str:
    try:
        with budget.hold_image(path):
            raw = read_raw(path)
            held = held_values(raw.values)
    except DatasetError as error:
        return str(error)
    if len(held) > PHOTO:
        return f"{path}: holds {len(held)} colours; this is a photograph, not a label"
    return Survey(path, frozenset(held), raw.colored, raw.palette)


def as_ids(entry: Survey) -> Survey:
    """Return colours that are all grey as ids."""
    return Survey(entry.path, frozenset(v & 255 for v in entry.values), False, entry.palette)


def _colored(image: Image.Image, path: Path) -> RawLabel:
    """Read a label that has colours, or a channel of transparency, or both.

    Raises:
        DatasetError: What is transparent has colours that mean something where it is not.
    """
    if image.mode == "RGB":
        return RawLabel(_packed(np.asarray(image)), True, None, False)
    pixels = np.asarray(image.convert("RGBA"))
    packed, alpha = _packed(pixels[..., :3]), pixels[..., 3]
    if (packed == packed.flat[0]).all() and (alpha != alpha.flat[0]).any():
        return RawLabel(alpha, False, None, False)
    if (alpha != 255).any():
        clear = np.unique(packed[alpha == 0])
        shared = np.isin(clear, packed[alpha == 255]).any()
        if ((alpha != 0) & (alpha != 255)).any() or len(clear) > 1 or shared:
            raise DatasetError(
                f"{path}: is transparent in parts, and its colours do not settle what these are; save it without "
                "transparency"
            )
    grey = image.mode == "LA"
    return RawLabel(packed & 255 if grey else packed, not grey, None, False)


def _packed(pixels: np.ndarray) -> np.ndarray:
    packed: np.ndarray = pixels.astype(np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32)
    return packed


def held_values(values: np.ndarray) -> list[int]:
    """Return the distinct values, ascending; much faster than `np.unique` for ids and colours."""
    if values.min() < 0 or values.max() >= 1 << 24:
        return [int(v) for v in np.unique(values)]
    seen = np.zeros(int(values.max()) + 1, bool)
    seen[values.ravel()] = True
    return [int(v) for v in np.flatnonzero(seen)]


def is_gray(color: int) -> bool:
    """Tell whether a packed colour has three equal channels."""
    return color == (color & 255) * 0x010101


def _palette(image: Image.Image) -> tuple[int, ...]:
    flat = image.getpalette("RGB") or []
    return tuple((r << 16) + (g << 8) + b for r, g, b in zip(flat[::3], flat[1::3], flat[2::3], strict=False))
