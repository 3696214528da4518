"""Pictures of what validation found: the two images that are almost one, the label over its image."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from segmodels.data.bands import Bands, view
from segmodels.data.folder import IGNORE_INDEX, DatasetError, DatasetInfo, read_label
from segmodels.files import relative
from segmodels.tasks.semantic.pictures import colorize, overlay

if TYPE_CHECKING:
    from segmodels.data.validation.checks import Outcome

PICTURE_WIDTH = 440
# Findings of one rule, and of all rules, that are shown.
_OF_A_RULE, _OF_ALL = 4, 24


def pictures(
    outcomes: Sequence[Outcome], info: DatasetInfo, images: Mapping[str, str], data: Path
) -> dict[str, list[list[dict[str, str]]]]:
    """Return for the rules that are not met the pictures of their first findings; a finding has one or more.

    Args:
        outcomes: Every rule's outcome.
        info: The dataset's description.
        images: Label file -> its image file.
        data: The dataset folder.
    """
    shown: dict[str, list[list[dict[str, str]]]] = {}
    left = _OF_ALL
    for outcome in outcomes:
        for files in outcome.pictured[: min(_OF_A_RULE, left)]:
            parts = [part for name in files for part in _parts(name, info, images, data)]
            if parts:
                shown.setdefault(outcome.key, []).append(parts)
                left -= 1
    return shown


def _parts(name: str, info: DatasetInfo, images: Mapping[str, str], data: Path) -> list[dict[str, str]]:
    """Return the pictures of a file: an image, or a label over its image beside it; none where it is unreadable."""
    parts = []
    try:
        if "/labels/" not in name:
            return [{"name": name, "picture": data_uri(_image(data / relative(name, "file"), info))}]
        label = known(read_label(data / name), info)
        if name in images:
            image = _image(data / images[name], info)
            parts.append({"name": images[name], "picture": data_uri(image)})
            if image.shape[:2] == label.shape:
                return [*parts, {"name": name, "picture": data_uri(overlay(image, label, info.palette, alpha=0.6))}]
        return [*parts, {"name": name, "picture": data_uri(colorize(label, info.palette))}]
    except (OSError, DatasetError):
        return parts


def _image(path: Path, info: DatasetInfo) -> np.ndarray:
    return view(Bands.of(info.image).read(path))


def known(label: np.ndarray, info: DatasetInfo) -> np.ndarray:
    """Return a label in which ids that no class has are void."""
    return np.where(label < info.num_classes, label, np.uint8(IGNORE_INDEX))


def data_uri(pixels: np.ndarray) -> str:
    """Return RGB pixels as the address of a JPEG that is its own content."""
    picture: Any = Image.fromarray(np.ascontiguousarray(pixels))
    if picture.width > PICTURE_WIDTH or picture.height > PICTURE_WIDTH:
        picture.thumbnail((PICTURE_WIDTH, PICTURE_WIDTH), Image.Resampling.LANCZOS)
    packed = io.BytesIO()
    picture.save(packed, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(packed.getvalue()).decode()
