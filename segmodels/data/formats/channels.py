"""The channels of a dataset's images: which bands they are, how they are scaled, and their mean and spread.

Photos of 8 bits need nothing of this. Where `data.bands` or `data.scale` chooses, images spread over the training split
are looked at before anything is written: for the percentiles of `auto`, and for what normalisation subtracts and
divides by. A band may be the name of a target, `[1, 2, 3, depth]`: such images are written anew, as TIFFs of floats.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.bands import PLAIN, Bands, deep_sentence, opened, raw_values
from segmodels.data.folder import DatasetError, reading
from segmodels.data.formats.layout import Choices, Raw
from segmodels.data.images import lost, open_image

LOOKED_AT = 200  # images of which statistics are taken
PIXELS = 1 << 16  # of each of them
_SAMPLES = 277  # of a TIFF's pixel
DARK, BRIGHT = 0.1, 99.9  # percentiles that `auto` makes black and white


@dataclass(frozen=True)
class Channels:
    """How the images of a dataset become channels.

    Attributes:
        bands: What is read of the files that are written.
        image: What `dataset.json` says of it; empty for plain photos.
        entries: Bands of the original files and names of targets, where files are written anew.
        dtype: What the original files hold; "" where it does not matter.
    """

    bands: Bands = PLAIN
    image: Mapping[str, Any] | None = None
    entries: tuple[int | str, ...] = ()
    dtype: str = ""

    def content(self, raw: Raw, truth: Mapping[str, np.ndarray]) -> bytes | None:
        """Return the bytes of the file to write where it is not the original one.

        Raises:
            DatasetError: A band or a target is missing.
        """
        return _tiff(_stacked(raw, self.entries, truth)) if self.entries else None

    def check(self, raw: Raw) -> None:
        """Refuse an image of which reading it would silently leave something out.

        Raises:
            DatasetError: It is deeper, has other bands or more pages than what is read of it.
        """
        file, name = _file(raw), str(raw.image)
        if self.bands.plain and not self.entries:
            _check_plain(file, name)
            return
        if self.entries:
            return
        with opened(file, name) as source:
            self.bands.of_file(source, name)
            if source.dtypes[0] != self.dtype:
                raise DatasetError(
                    f"{name}: holds {source.dtypes[0]} where other images hold {self.dtype}; one scale cannot mean "
                    "both: bring them to one depth"
                )


def settle(raws: Sequence[Raw], choices: Choices, kept: Mapping[str, Any]) -> Channels:
    """Return the channels of images.

    Args:
        raws: Those of the training split.
        choices: `bands` and `scale` count here.
        kept: What the data itself says of its images, as `dataset.json` has it; it counts where nothing is chosen.

    Raises:
        DatasetError: A choice does not fit the images, or they need one.
    """
    if choices.bands is None and choices.scale is None:
        return Channels(Bands.of(kept), kept, dtype=_dtype(raws[0])) if kept else Channels()
    names = [entry for entry in choices.bands or () if isinstance(entry, str)]
    numbers = tuple(int(entry) for entry in choices.bands) if choices.bands is not None and not names else None
    looked = [raws[i] for i in np.unique(np.linspace(0, len(raws) - 1, min(LOOKED_AT, len(raws))).round().astype(int))]
    entries: tuple[int | str, ...] = tuple(choices.bands or ()) if names else ()
    held = [_thinned(_stacked(raw, entries, {}) if entries else _values(raw, numbers)) for raw in looked]
    values = np.concatenate([one.astype(np.float32) for one in held])
    if choices.scale is None and held[0].dtype != np.uint8:
        raise DatasetError(f"{looked[0].image}: {deep_sentence(held[0])}")
    if choices.scale == "auto":
        scale = tuple(_range(values[:, band]) for band in range(values.shape[1]))
        if numbers is None and not entries:
            scale = (_range(values),)
    else:
        scale = _pairs(choices.scale)
    take = tuple(range(1, len(entries) + 1)) if entries else numbers
    try:
        bands = Bands.of({"take": take, "scale": scale})
    except ValueError as error:
        raise DatasetError(f"data.bands, data.scale: {error}") from None
    scaled = bands.scaled(values if bands.scale else np.concatenate(held), str(looked[0].image)) / 255
    mean, std = scaled.mean(0, dtype=np.float64), scaled.std(0, dtype=np.float64)
    image = {
        **bands.as_json(),
        "mean": [round(float(value), 6) for value in mean],
        "std": [round(max(float(value), 1e-3), 6) for value in std],
    }
    return Channels(bands, image, entries, "" if entries else _dtype(looked[0]))


def _check_plain(file: Path | bytes, name: str) -> None:
    try:
        image = open_image(io.BytesIO(file) if isinstance(file, bytes) else file)
        with reading(name, "an image"), image as shown:
            why = lost(shown)
            further = shown.format == "TIFF" and shown.mode in ("RGB", "RGBX") and shown.tag_v2.get(_SAMPLES, 3) > 3  # type: ignore[attr-defined]
    except DatasetError:
        _refuse_bands(file, name)
        raise
    if further:
        raise DatasetError(f"{name}: has a fourth band that is no alpha; set data.bands to [1, 2, 3] or [1, 2, 3, 4]")
    if "pages" in why:
        raise DatasetError(f"{name}: {why}; save each as an image of its own")
    if why:
        raise DatasetError(f"{name}: {deep_sentence(raw_values(file, name, None))}")


def _refuse_bands(file: Path | bytes, name: str) -> None:
    """Refuse an image whose bands Pillow does not know, but GDAL does."""
    try:
        with opened(file, name) as source:
            count, kind = source.count, source.dtypes[0]
    except DatasetError:  # it is damaged
        return
    few = "[1, 2, 3]" if count >= 3 else "[1]"
    scale = "" if kind == "uint8" else ", and data.scale to the range of their values, or to auto"
    raise DatasetError(
        f"{name}: holds {count} band{'s' * (count > 1)} of {kind}, not RGB; set data.bands to those that the network "
        f"shall see, e.g. {few}{scale}"
    )


def _file(raw: Raw) -> Path | bytes:
    return raw.content() if raw.content is not None else raw.image


def _values(raw: Raw, take: tuple[int, ...] | None) -> np.ndarray:
    return raw_values(_file(raw), str(raw.image), take)


def _dtype(raw: Raw) -> str:
    with opened(_file(raw), str(raw.image)) as source:
        return str(source.dtypes[0])


def _stacked(raw: Raw, entries: Sequence[int | str], truth: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return float32 `[H, W, C]`: bands of the image, and values of targets."""
    numbers = [entry for entry in entries if not isinstance(entry, str)]
    from_file = iter(_values(raw, tuple(numbers)).transpose(2, 0, 1)) if numbers else iter(())
    planes: list[np.ndarray] = []
    for entry in entries:
        if not isinstance(entry, str):
            planes.append(next(from_file))
        elif entry in raw.targets:
            values = np.asarray(truth[entry] if entry in truth else raw.targets[entry]())
            planes += list(values.transpose(2, 0, 1)) if values.ndim == 3 else [values]
        else:
            raise DatasetError(f"{raw.image}: has no {entry}, which data.bands asks for")
    if len({plane.shape for plane in planes}) > 1:
        raise DatasetError(f"{raw.image}: its bands have several sizes; data.bands needs them in one")
    return np.stack([plane.astype(np.float32) for plane in planes], axis=-1)


def _tiff(values: np.ndarray) -> bytes:
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)
    height, width, count = values.shape
    kind = {"driver": "GTiff", "dtype": "float32", "compress": "deflate", "predictor": 3}
    with rasterio.MemoryFile() as file:
        with file.open(width=width, height=height, count=count, **kind) as made:
            made.write(values.transpose(2, 0, 1))
        return bytes(file.getbuffer())


def _thinned(values: np.ndarray) -> np.ndarray:
    """Return `[pixels, C]` of `[H, W, C]`, evenly spread."""
    flat = values.reshape(-1, values.shape[2])
    return flat[:: max(1, len(flat) // PIXELS)]


def _range(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    low, high = (float(value) for value in np.percentile(finite, [DARK, BRIGHT])) if finite.size else (0.0, 1.0)
    low, high = float(f"{low:.6g}"), float(f"{high:.6g}")  # read by people, too
    return low, high if high > low else low + 1.0


def _pairs(scale: Any) -> tuple[tuple[float, float], ...]:
    """Return `[low, high]`, or a list of such, as pairs."""
    if scale is None:
        return ()
    pairs = [scale] if not isinstance(scale[0], list | tuple) else scale
    return tuple((float(low), float(high)) for low, high in pairs)
