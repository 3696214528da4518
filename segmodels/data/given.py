"""What a person may give as data, made into a dataset folder: a folder, two folders, or a torch Dataset."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from segmodels.data.folder import IGNORE_INDEX, INFO_FILE, MAX_CLASSES, ClassInfo, DatasetError
from segmodels.data.formats import convert, converting
from segmodels.data.formats.common import Splitting
from segmodels.data.inputs import as_rgb
from segmodels.data.palette import default_palette
from segmodels.data.writer import DatasetWriter

Given = Path | str | tuple[Path | str, Path | str] | Dataset[Any]


def dataset_folder(given: Given, place: Path, *, classes: Sequence[str] = (), seed: int = 0) -> Path:
    """Return a dataset folder of what was given.

    Args:
        given: A dataset folder, which is returned as it is; a folder of any known layout; a pair of folders, images and
            labels with the same names; or a torch Dataset of (image, label): the image as `Predictor.predict` takes it
            or a tensor `[3, H, W]` (uint8, or floats in 0..1), the label integer ids `[H, W]`, 255 for void.
        place: Where the dataset folder is written that has to be made; one that is there is replaced.
        classes: Names for a torch Dataset; by default `class 0`, `class 1`, … up to the largest id.
        seed: Deals the splits that the data does not have.

    Raises:
        DatasetError: It is none of these, or its content is not what it should be.
    """
    splitting = Splitting(seed)
    if isinstance(given, str | Path):
        path = Path(given)
        if (path / INFO_FILE).is_file():
            return path
        if not path.is_dir():
            raise DatasetError(f"{path}: no such folder")
        place.parent.mkdir(parents=True, exist_ok=True)
        print(f"{path}: read as {convert(path, out=place, splitting=splitting)}, kept as {place}", flush=True)
        return place
    place.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(given, tuple):
        images, labels = (Path(one) for one in given)
        for one in (images, labels):
            if not one.is_dir():
                raise DatasetError(f"{one}: no such folder; give the folder of images and that of their labels")
        converting.write_pair(images, labels, place, splitting)
        return place
    if not (hasattr(given, "__len__") and hasattr(given, "__getitem__")):
        raise DatasetError(f"{type(given).__name__} is no data; give a folder, two folders or a Dataset with a length")
    _write(given, place, classes, splitting)
    return place


def _write(data: Any, place: Path, classes: Sequence[str], splitting: Splitting) -> None:
    """Write the samples of a torch Dataset."""
    count = len(data)
    ids = [f"{index:06d}" for index in range(count)]
    if not count:
        raise DatasetError(f"{type(data).__name__}: has no samples")
    splits = splitting.assign(ids)
    labels = [_label(data[index][1], index) for index in range(count)]
    largest = max((int(label[label != IGNORE_INDEX].max(initial=0)) for label in labels), default=0)
    names = list(classes) or [f"class {index}" for index in range(largest + 1)]
    if largest >= len(names):
        raise DatasetError(f"{type(data).__name__}: a label has the id {largest}, and {len(names)} classes are named")
    if len(names) > MAX_CLASSES:
        raise DatasetError(f"{type(data).__name__}: {len(names)} classes; labels of 8 bits hold {MAX_CLASSES}")
    infos = tuple(ClassInfo(name, color) for name, color in zip(names, default_palette(len(names)), strict=True))
    with DatasetWriter(place, type(data).__name__, infos, source={"dataset": type(data).__name__}) as writer:
        for index, (sample_id, label) in enumerate(zip(ids, labels, strict=True)):
            writer.add(splits[sample_id], sample_id, _image(data[index][0], index), label)


def _image(given: Any, index: int) -> np.ndarray:
    if isinstance(given, torch.Tensor):
        if given.ndim != 3 or given.shape[0] != 3:
            raise DatasetError(f"sample {index}: its image is a tensor {list(given.shape)}; give [3, H, W]")
        given = given.permute(1, 2, 0).cpu().numpy()
    return as_rgb(given)


def _label(given: Any, index: int) -> np.ndarray:
    label = given.cpu().numpy() if isinstance(given, torch.Tensor) else np.asarray(given)
    if label.ndim != 2 or label.dtype.kind not in "uib":
        raise DatasetError(f"sample {index}: its label is {label.dtype} {list(label.shape)}; give integer ids [H, W]")
    if label.min() < 0 or label.max() > IGNORE_INDEX:
        raise DatasetError(f"sample {index}: its label has ids {label.min()} to {label.max()}; they lie in 0..255")
    return label.astype(np.uint8)
