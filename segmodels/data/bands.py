"""How the bands of image files become a network's channels: which of them, and which values are black and white.

Photos of 8 bits are read as RGB, whatever their colour mode (`Bands()`). All else is chosen: `take` names bands of the
file, `scale` the values that become 0 and 255. GDAL reads such files (rasterio): TIFFs of any bands and depth, PNGs of
16 bits. What comes out are floats in 0..255, which keep the depth, so everything behind treats them as it treats bytes.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import DatasetError, read_image, reading
from segmodels.data.images import MAX_PIXELS, TooManyPixelsError, open_image, orientation, turned, upright_size
from segmodels.errors import printable

RGB = 3
# First bytes of a file -> GDAL's driver; no other is tried: some read further files, or addresses, that a file names.
_DRIVERS = {
    b"II*\0": "GTiff",
    b"MM\0*": "GTiff",
    b"II+\0": "GTiff",
    b"MM\0+": "GTiff",
    b"\x89PNG": "PNG",
    b"\xff\xd8\xff": "JPEG",
    b"BM": "BMP",
    b"RIFF": "WEBP",
}


class Pixels(np.ndarray):
    """Channels as a network takes them, float32 `[H, W, C]` in 0..255: bands are taken and scaled already."""


@dataclass(frozen=True)
class Bands:
    """Which bands of image files are channels, and how their values are scaled.

    Attributes:
        take: Bands of a file, from 1, in the order of the channels; None is RGB, whose grey files have it thrice.
        scale: (low, high) of all channels, or of each: the values that become 0 and 255; what lies outside is cut off.
            Empty leaves 8 bits as they are.
    """

    take: tuple[int, ...] | None = None
    scale: tuple[tuple[float, float], ...] = ()

    @property
    def plain(self) -> bool:
        """Whether images are RGB of 8 bits, as nearly all are."""
        return self.take is None and not self.scale

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return RGB if self.take is None else len(self.take)

    @classmethod
    def of(cls, stored: Mapping[str, Any]) -> Bands:
        """Return what `as_json` gave.

        Raises:
            ValueError: It is something else.
        """
        take = stored.get("take")
        bands = cls(
            None if take is None else tuple(int(number) for number in take),
            tuple((float(low), float(high)) for low, high in stored.get("scale", ())),
        )
        if take is not None and (not bands.take or min(bands.take) < 1):
            raise ValueError(f"bands are {list(take)}; they are numbers from 1")
        if len(bands.scale) not in (0, 1, bands.channels) or any(high <= low for low, high in bands.scale):
            raise ValueError(f"scale is {list(stored['scale'])}; it has (low, high) of all channels, or of each")
        return bands

    def as_json(self) -> dict[str, Any]:
        """Return plain values, as JSON has them."""
        return {"take": None if self.take is None else list(self.take), "scale": [list(pair) for pair in self.scale]}

    def __str__(self) -> str:
        taken = "RGB" if self.take is None else f"band{'s' * (len(self.take) > 1)} {', '.join(map(str, self.take))}"
        pairs = ", ".join(f"{low:g} to {high:g}" for low, high in self.scale)
        return f"{taken} of {pairs}" if pairs else taken

    def read(self, file: Path | str | bytes, name: str = "", *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
        """Return an image file as channels, turned upright as its EXIF says.

        Args:
            file: The file, or its bytes.
            name: What messages call it; by default its path.
            max_pixels: Height times width that is decoded.

        Returns:
            uint8 `[H, W, 3]` of plain bands, else `Pixels`, float32 `[H, W, C]` in 0..255.

        Raises:
            DatasetError: The file cannot be read, has other bands, or is deeper than plain bands are.
            TooManyPixelsError: It has more pixels.
        """
        if self.plain:
            assert not isinstance(file, bytes)
            return read_image(file)
        name = name or printable(Path(file))  # type: ignore[arg-type]
        with opened(file, name) as source:
            if source.width * source.height > max_pixels:
                raise TooManyPixelsError(f"{source.width} x {source.height} are more than {max_pixels} pixels")
            values = source.read(self.of_file(source, name)).transpose(1, 2, 0)
            if source.nodata is not None:
                values = np.where(values == source.nodata, np.float32(np.nan), values)
        return self.scaled(_upright(values, file), name)

    def of_file(self, source: Any, name: str) -> list[int]:
        """Return the numbers of an opened file's bands that are read.

        Raises:
            DatasetError: It has too few.
        """
        if self.take is None:
            return [1, 2, 3] if source.count >= RGB else [1, 1, 1]
        if source.count < max(self.take):
            raise DatasetError(
                f"{name}: has {source.count} band{'s' * (source.count > 1)}; {self} asks for more (data.bands)"
            )
        return list(self.take)

    def scaled(self, values: np.ndarray, name: str) -> Pixels:
        """Return raw values `[H, W, C]` as `Pixels`; what is no number becomes 0.

        Raises:
            DatasetError: Values are deeper than 8 bits, and no scale says what they mean.
        """
        pixels = values.astype(np.float32)
        if self.scale:
            low, high = np.array(self.scale, np.float32).T
            pixels -= low
            pixels *= 255 / (high - low)
        elif values.dtype != np.uint8:
            raise DatasetError(f"{name}: {deep_sentence(values)}")
        return np.clip(np.nan_to_num(pixels, nan=0.0), 0, 255).view(Pixels)

    def of_array(self, image: np.ndarray) -> np.ndarray:
        """Return the channels of an array `[H, W]` or `[H, W, bands]` that holds what files hold.

        Raises:
            DatasetError: It has another number of bands, or is deeper than plain bands are.
        """
        if isinstance(image, Pixels):
            return image
        values = image[..., None] if image.ndim == 2 else image
        if values.ndim != 3 or values.dtype.kind not in "uif" or not values.size:
            raise DatasetError(f"an array {list(image.shape)} of {image.dtype} is no image; give [H, W, bands]")
        if self.take is None:
            values = np.repeat(values, RGB, axis=2) if values.shape[2] == 1 else values[..., :RGB]
        elif values.shape[2] != self.channels and values.shape[2] >= max(self.take):
            values = values[..., [number - 1 for number in self.take]]
        if values.shape[2] != self.channels:
            raise DatasetError(f"an array {list(image.shape)} has not the {self.channels} bands that the model takes")
        return self.scaled(values, "an array")

    def blank(self, size: tuple[int, int]) -> np.ndarray:
        """Return a black image of the size (height, width), as `read` gives it."""
        if self.plain:
            return np.zeros((*size, RGB), np.uint8)
        return np.zeros((*size, self.channels), np.float32).view(Pixels)

    def size(self, file: Path | str) -> tuple[int, int]:
        """Return (height, width) of a file as `read` gives it; nothing is decoded.

        Raises:
            DatasetError: It is no image.
        """
        with ExitStack() as stack:
            if not self.plain:
                try:
                    return upright_size(stack.enter_context(open_image(file)))
                except Exception:  # bands that Pillow does not know
                    source = stack.enter_context(opened(file, printable(Path(file))))
                    return source.height, source.width
            stack.enter_context(reading(file, "an image"))
            return upright_size(stack.enter_context(open_image(file)))


PLAIN = Bands()


def view(pixels: np.ndarray) -> np.ndarray:
    """Return channels as a picture for people, RGB uint8 `[H, W, 3]`: the first three, or the first alone."""
    if pixels.dtype == np.uint8 and pixels.shape[-1] == RGB:
        return pixels
    shown = pixels[..., :RGB] if pixels.shape[-1] >= RGB else np.repeat(pixels[..., :1], RGB, axis=-1)
    return np.ascontiguousarray(np.rint(np.asarray(shown)).astype(np.uint8))


@contextmanager
def opened(file: Path | str | bytes, name: str) -> Iterator[Any]:
    """Open an image file with GDAL.

    Raises:
        DatasetError: rasterio is missing, or the file cannot be read.
    """
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioError
    except ImportError:
        raise DatasetError(
            f"{name}: images of other bands or depths than 8-bit RGB need rasterio; `pip install segmodels[raster]`"
        ) from None
    try:
        with ExitStack() as stack:
            warnings.filterwarnings("ignore", category=NotGeoreferencedWarning)  # a photo lies nowhere
            if isinstance(file, bytes):
                head, source = file[:8], stack.enter_context(rasterio.MemoryFile(file))
            else:
                with open(file, "rb") as start:
                    head, source = start.read(8), file
            driver = next((driver for mark, driver in _DRIVERS.items() if head.startswith(mark)), None)
            if driver is None:
                raise DatasetError(f"{name}: is no image that has bands; give TIFF or PNG")
            if isinstance(file, bytes):
                yield stack.enter_context(source.open(driver=driver))
            else:
                yield stack.enter_context(rasterio.open(source, driver=driver))
    except RasterioError as error:
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise DatasetError(f"{name}: cannot be read as an image ({why}); replace or remove it") from None
    except OSError as error:
        raise DatasetError(f"{name}: cannot be read ({error.strerror or error}); replace or remove it") from None


def raw_values(file: Path | bytes, name: str, take: Sequence[int] | None) -> np.ndarray:
    """Return the values of bands, or of those of RGB, as the file holds them, `[H, W, C]`, turned upright."""
    with opened(file, name) as source:
        numbers = Bands(None if take is None else tuple(take)).of_file(source, name)
        values = source.read(numbers, masked=True).filled(0)
    return _upright(values.transpose(1, 2, 0), file)


def deep_sentence(values: np.ndarray) -> str:
    """Say what values of more than 8 bits may mean, and which key decides."""
    low, high = np.nanmin(values), np.nanmax(values)
    whole = np.iinfo(values.dtype).max if values.dtype.kind in "ui" else 1
    bits = max(1, int(np.ceil(np.log2(max(2.0, float(high) + 1))))) if values.dtype.kind in "ui" else 0
    guess = f", [0, {2**bits - 1}]" if bits and 2**bits - 1 < whole else ""
    return (
        f"holds {values.dtype} from {low:g} to {high:g}, and black and white may be [0, {whole}]{guess} or another "
        "range; set data.scale to it, or to auto"
    )


def _upright(values: np.ndarray, file: Path | str | bytes) -> np.ndarray:
    """Turn `[H, W, C]` as the file's EXIF says."""
    try:
        with open_image(io.BytesIO(file) if isinstance(file, bytes) else file) as image:
            turn = orientation(image)
    except Exception:  # bands that Pillow does not know have no EXIF that it could tell
        turn = 1
    return turned(values, turn)
