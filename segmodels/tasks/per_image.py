"""What each evaluated image counted, in one small file, so that two models can be compared image by image.

Nothing in the file is pickled, and the same counts give the same bytes.
"""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.errors import brief
from segmodels.tasks import DEFAULT, get_task, list_tasks, named
from segmodels.tasks.base import Counts, Tally

PER_IMAGE_FILE = "per_image.npz"
_KEYS = ("ids", "classes", "sequences", "task")


class PerImage:
    """The counts of N images.

    Attributes:
        task: Name of the task whose counts they are.
        ids: Of the images, `[N]`, in the order of the split.
        classes: Names of the K parts by which the task counts.
        counts: Name -> `[N, …]`; the task says what they are.
        sequences: Name of the sequence that each image is a frame of, `[N]`; empty where it stands alone.
    """

    def __init__(
        self,
        ids: Sequence[str] | np.ndarray,
        classes: Sequence[str] | np.ndarray,
        counts: Mapping[str, np.ndarray],
        sequences: Sequence[str] | np.ndarray = (),
        task: str = DEFAULT,
    ) -> None:
        self.task, self.ids, self.classes = task, np.array(ids), np.array(classes)
        self.counts = dict(counts)
        self.sequences = np.array(sequences, dtype=str) if len(sequences) else np.zeros(len(self.ids), "U1")

    @classmethod
    def of(
        cls, task: str, classes: Sequence[str], ids: Sequence[str], counts: Sequence[Counts], sequences: Sequence[str]
    ) -> PerImage:
        """Return the counts of images, one after the other; `sequences` names that of each, or is empty."""
        columns = {name: np.stack([one.each[name] for one in counts]) for name in counts[0].each}
        return cls(ids, classes, columns, sequences, task)

    @classmethod
    def read(cls, path: Path) -> PerImage:
        """Read the file.

        Raises:
            ValueError: It is no such file.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                # Files of earlier releases say nothing of sequences and tasks.
                task = str(file["task"]) if "task" in file else DEFAULT
                if task not in list_tasks():
                    raise ValueError(f"of the unknown task '{task}'")
                sequences = file.get("sequences", ())
                counts = {name: file[name] for name in file.files if name not in _KEYS}
                read = cls(file["ids"], file["classes"], counts, sequences, task)
                read.figures(np.ones((1, len(read.ids))))
                return read
        except (KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path}: not the counts of an evaluation ({brief(error)})") from None

    def write(self, path: Path) -> None:
        """Write the file."""
        told = {name: np.array(value) for name, value in named(self.task).items()}
        columns: Any = {"ids": self.ids, "classes": self.classes, **self.counts, "sequences": self.sequences, **told}
        np.savez_compressed(path, **columns)

    @property
    def measured(self) -> Tally:
        """What the task's figures are computed from."""
        return Tally(self.classes.tolist(), self.counts)

    def figures(self, weights: np.ndarray) -> dict[str, np.ndarray]:
        """Return each figure of the task and of each part, `[B]`, of images that count `weights` times, `[B, N]`."""
        return get_task(self.task).figures(self.measured, weights)
