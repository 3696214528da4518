"""What each evaluated image counted, in one small file, so that two models can be compared image by image.

IoU needs no more of a confusion matrix than its diagonal and the sums of its rows and columns: they are kept for each
image. Nothing in the file is pickled, and the same counts give the same bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np

from segmodels.tasks.semantic.metrics import calibration_error, class_mean

PER_IMAGE_FILE = "per_image.npz"


@dataclass(frozen=True)
class ImageCounts:
    """The counts of one image; `PerImage` says what they are, without its first axis."""

    id: str
    hits: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    boundary_f1: np.ndarray
    calibration: np.ndarray

    @classmethod
    def of(cls, id_: str, matrix: np.ndarray, boundary_f1: np.ndarray, calibration: np.ndarray) -> ImageCounts:
        """Return the counts of an image with this confusion matrix, int64 `[C, C]`, rows truth."""
        return cls(id_, np.diag(matrix).copy(), matrix.sum(1), matrix.sum(0), boundary_f1, calibration)


@dataclass(frozen=True)
class PerImage:
    """The counts of N images and C classes.

    Attributes:
        ids: Of the images, `[N]`, in the order of the split.
        sequences: Name of the sequence that each image is a frame of, `[N]`; empty where it stands alone.
        classes: Names of the classes, `[C]`.
        hits: Pixels of each class that were found, int64 `[N, C]`.
        truth: Pixels of each class in the truth, void left out, int64 `[N, C]`.
        predicted: Pixels predicted as each class where the truth is not void, int64 `[N, C]`.
        boundary_f1: F1 of each class's boundary, float64 `[N, C]`; NaN where neither truth nor prediction has one.
        calibration: Pixels, summed confidence and correct pixels of each bin of confidence, float64 `[N, 3, bins]`.
    """

    ids: np.ndarray
    classes: np.ndarray
    hits: np.ndarray
    truth: np.ndarray
    predicted: np.ndarray
    boundary_f1: np.ndarray
    calibration: np.ndarray
    sequences: np.ndarray = field(default_factory=lambda: np.zeros(0, "U1"))

    def __post_init__(self) -> None:
        if not len(self.sequences):
            object.__setattr__(self, "sequences", np.zeros(len(self.ids), "U1"))

    @classmethod
    def of(cls, classes: Sequence[str], images: Sequence[ImageCounts], sequences: Sequence[str] = ()) -> PerImage:
        """Return the counts of images, one after the other; `sequences` names that of each, or is empty."""
        names = [f.name for f in fields(ImageCounts) if f.name != "id"]
        columns = {name: np.stack([getattr(image, name) for image in images]) for name in names}
        ids = np.array([image.id for image in images])
        return cls(ids=ids, classes=np.array(classes), sequences=np.array(sequences, dtype=str), **columns)

    @classmethod
    def read(cls, path: Path) -> PerImage:
        """Read the file.

        Raises:
            ValueError: It is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                # Files of earlier releases say nothing of sequences.
                names = [f.name for f in fields(cls) if f.name != "sequences" or f.name in file]
                return cls(**{name: file[name] for name in names})
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not the counts of an evaluation ({error})") from None

    def write(self, path: Path) -> None:
        """Write the file."""
        np.savez_compressed(path, **{f.name: getattr(self, f.name) for f in fields(self)})

    def figures(self, weights: np.ndarray) -> np.ndarray:
        """mIoU, boundary F1, ECE and the IoU of each class, of images that count several times or not at all.

        Args:
            weights: How often each image counts, float64 `[B, N]`.

        Returns:
            float64 `[B, 3 + C]`; NaN where a class occurs neither in the truth nor in the prediction.
        """
        hits = weights @ self.hits
        union = weights @ (self.truth + self.predicted) - hits
        iou = np.divide(hits, union, out=np.full(hits.shape, np.nan), where=union > 0)
        has = np.isfinite(self.boundary_f1)
        seen = weights @ has
        f1 = weights @ np.where(has, self.boundary_f1, 0.0)
        boundary = np.divide(f1, seen, out=np.full(f1.shape, np.nan), where=seen > 0)
        bins = self.calibration.shape[-1]
        sums = (weights @ self.calibration.reshape(len(self.ids), -1)).reshape(-1, 3, bins)
        means = [class_mean(iou), class_mean(boundary), calibration_error(sums)]
        return np.column_stack([*means, iou])
