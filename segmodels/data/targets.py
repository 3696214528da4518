"""What an image can be labelled with: how each target is stored, and what geometry does to it.

A target is the only place that knows its file and its values. Files are read as arrays, without torch, which checks and
reports do without; geometry is done to tensors. A mirrored image has mirrored labels, but of its normals x changes its
sign, too; an image that is shown twice as large looks half as far away.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from segmodels.data.folder import IGNORE_INDEX, DatasetError, read_label, reading
from segmodels.data.images import open_image
from segmodels.errors import UserError, nearest

if TYPE_CHECKING:
    from torch import Tensor

FARTHEST = 65535  # of a file's 16 bits


class Target(ABC):
    """One kind of truth that lies beside the images of a dataset folder.

    Attributes:
        name: Of its folder in each split, and its key in samples and batches.
        suffix: Of its files.
        void: The value of pixels that count nowhere.
        transformable: Whether torchvision's joint transforms (`augment.extra`) leave its values right.
        stored: What `dataset.json` says of files of which it says nothing else: `unit`, `scale`, …
    """

    name: ClassVar[str]
    suffix: ClassVar[str] = ".png"
    void: ClassVar[float] = 0
    transformable: ClassVar[bool] = False
    stored: ClassVar[Mapping[str, Any]] = {}

    @abstractmethod
    def read(self, path: Path | str, stored: Mapping[str, Any]) -> np.ndarray:
        """Return a file's values `[H, W]` or `[K, H, W]`.

        Args:
            path: The file.
            stored: What `dataset.json` says of the target.

        Raises:
            DatasetError: The file cannot be read.
        """

    @abstractmethod
    def write(self, values: np.ndarray, path: Path, stored: Mapping[str, Any]) -> None:
        """Write values, `[H, W]` or `[H, W, K]`, to a file."""

    def resize(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        """Return the values at another size; each pixel takes those at its centre, none are mixed."""
        return take_centers(values, size)

    def flip(self, values: Tensor) -> Tensor:
        """Return the values of the mirror image, left for right."""
        return values.flip(-1)

    def zoom(self, values: Tensor, factor: float) -> Tensor:
        """Return the values of an image that is shown `factor` times as large by the same camera."""
        return values

    def finish(self, values: Tensor) -> Tensor:
        """Return the values as losses take them."""
        return values

    def seen(self, values: Any) -> Any:
        """Return where values count, bool `[H, W]`."""
        return values != self.void


class Labels(Target):
    """Class ids, uint8 `[H, W]`; 255 is void."""

    name = "labels"
    void = IGNORE_INDEX
    transformable = True

    def read(self, path: Path | str, stored: Mapping[str, Any]) -> np.ndarray:
        return np.array(read_label(path))  # a copy: what PIL gives is read-only

    def write(self, values: np.ndarray, path: Path, stored: Mapping[str, Any]) -> None:
        _save(values.astype(np.uint8, copy=False), path)

    def finish(self, values: Tensor) -> Tensor:
        return values.long()


class Instances(Target):
    """Numbers of objects, int32 `[H, W]`, stored with 16 bits; 0 belongs to none."""

    name = "instances"
    transformable = True

    def read(self, path: Path | str, stored: Mapping[str, Any]) -> np.ndarray:
        return _read_deep(path, "instances").astype(np.int32)

    def write(self, values: np.ndarray, path: Path, stored: Mapping[str, Any]) -> None:
        _save(values.astype(np.uint16), path)

    def finish(self, values: Tensor) -> Tensor:
        return values.long()

    def seen(self, values: Any) -> Any:
        return values >= 0  # an image without objects is one, too


class Depth(Target):
    """Metres along the optical axis, float32 `[H, W]`; 0 is void. Files hold 16 bits in steps of `scale` metres."""

    name = "depth"
    stored: ClassVar[Mapping[str, Any]] = {"unit": "m", "scale": 0.01}

    def read(self, path: Path | str, stored: Mapping[str, Any]) -> np.ndarray:
        metres: np.ndarray = _read_deep(path, "depth").astype(np.float32)
        metres *= np.float32(stored.get("scale", self.stored["scale"]))
        return metres

    def write(self, values: np.ndarray, path: Path, stored: Mapping[str, Any]) -> None:
        """Write metres; what is not finite or not above 0 is void, what is too far for 16 bits is the farthest."""
        steps = np.rint(values * np.float32(1 / stored.get("scale", self.stored["scale"])))
        seen = np.isfinite(values) & (values > 0)
        _save(np.where(seen, np.clip(np.nan_to_num(steps), 1, FARTHEST), 0).astype(np.uint16), path)

    def zoom(self, values: Tensor, factor: float) -> Tensor:
        return values / factor


class Normals(Target):
    """Unit vectors of surfaces in camera coordinates, x right, y down, z forward, float32 `[3, H, W]`; zero is void.

    Files hold 8 bits a channel: (n + 1) * 127.5, rounded.
    """

    name = "normals"
    stored: ClassVar[Mapping[str, Any]] = {"frame": "camera: x right, y down, z forward"}

    def read(self, path: Path | str, stored: Mapping[str, Any]) -> np.ndarray:
        with reading(path, "normals"), open_image(path) as image:
            if image.mode != "RGB":
                raise DatasetError(f"{path}: mode {image.mode}; normals are an 8-bit RGB PNG, (n + 1) * 127.5")
            vectors = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / np.float32(127.5) - 1
        length = np.linalg.norm(vectors, axis=0, keepdims=True)
        return np.where(length > 0.5, vectors / np.maximum(length, np.float32(0.5)), np.float32(0))

    def write(self, values: np.ndarray, path: Path, stored: Mapping[str, Any]) -> None:
        _save(np.rint((values + 1) * 127.5).astype(np.uint8), path)

    def seen(self, values: Any) -> Any:
        return (values != 0).any(-3)

    def flip(self, values: Tensor) -> Tensor:
        return values.flip(-1) * values.new_tensor([-1.0, 1.0, 1.0])[:, None, None]


TARGETS: Mapping[str, Target] = {target.name: target for target in (Labels(), Instances(), Depth(), Normals())}


def target(name: str) -> Target:
    """Return the target of this name.

    Raises:
        DatasetError: There is none.
    """
    if name not in TARGETS:
        raise DatasetError(f"unknown target '{name}'{nearest(name, list(TARGETS))}")
    return TARGETS[name]


def check_transformable(names: tuple[str, ...]) -> None:
    """Refuse joint transforms of torchvision for targets whose values they would leave wrong.

    Raises:
        UserError: One of the targets is such a one.
    """
    for name in names:
        if not target(name).transformable:
            raise UserError(
                f"train.augment.extra: torchvision's transforms move pixels of {name}, but do not change what they "
                "say; leave it empty, flip, scale and crop are done right"
            )


def take_centers(values: Tensor, size: tuple[int, int]) -> Tensor:
    """Return `[..., H, W]` at another size; each pixel takes the value at its centre."""
    if tuple(values.shape[-2:]) == tuple(size):
        return values
    import torch

    rows, columns = (_centers(a, b) for a, b in zip(values.shape[-2:], size, strict=True))
    if values.device.type == "cpu":
        # Numpy gathers bytes four times faster.
        return torch.from_numpy(values.numpy().take(rows.numpy(), axis=-2).take(columns.numpy(), axis=-1))
    return values[..., rows, :][..., columns]


def _centers(source: int, size: int) -> Tensor:
    import torch

    return ((torch.arange(size, dtype=torch.float64) + 0.5) * (source / size)).long().clamp(max=source - 1)


def _read_deep(path: Path | str, what: str) -> np.ndarray:
    """Return a single-channel image of 8 or 16 bits."""
    with reading(path, what), open_image(path) as image:
        if image.mode not in ("L", "I;16", "I;16B", "I"):
            raise DatasetError(f"{path}: mode {image.mode}; {what} are a single-channel PNG of 8 or 16 bits")
        return np.asarray(image)


def _save(values: np.ndarray, path: Path) -> None:
    # Level 1 is four times faster than the default and a tenth larger on labels.
    Image.fromarray(values).save(path, compress_level=1)
