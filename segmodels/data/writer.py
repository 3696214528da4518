"""Writing a dataset folder, completely or not at all."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from PIL import Image

from segmodels.data.folder import SPLITS, ClassInfo, DatasetError, DatasetInfo
from segmodels.data.targets import target as target_kind
from segmodels.errors import printable
from segmodels.files import copy, replace
from segmodels.files import name as file_name


class DatasetWriter:
    """Writes a dataset folder completely or not at all.

    Everything goes to `<root>.part`; leaving the context without an error writes `dataset.json` and renames the
    folder to `root` (replacing what was there), an error removes it.

        with DatasetWriter(root, "mine", classes, source={"path": "photos"}) as writer:
            writer.add("train", "0001", Path("photos/0001.jpg"), label)
    """

    def __init__(
        self,
        root: Path | str,
        name: str,
        classes: tuple[ClassInfo, ...],
        *,
        source: Mapping[str, Any],
        targets: Mapping[str, Mapping[str, Any]] | None = None,
    ) -> None:
        self.root = Path(root)
        self.part = self.root.with_name(self.root.name + ".part")
        self.name, self.classes, self.source, self.targets = name, classes, source, dict(targets or {})
        self.counts: dict[str, int] = {}
        self.image: Mapping[str, Any] = {}  # how image files are read (`segmodels.data.bands`)
        self.sequences: dict[str, dict[str, list[str]]] = {}
        self._ids: set[tuple[str, str]] = set()
        self._adding = threading.Lock()

    def __enter__(self) -> Self:
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            return
        counts = {split: self.counts[split] for split in SPLITS if split in self.counts}
        sequences = {
            split: {name: tuple(sorted(ids)) for name, ids in sorted(named.items())}
            for split, named in self.sequences.items()
        }
        info = DatasetInfo(
            self.name, self.classes, counts, self.source, self.targets, sequences=sequences, image=self.image
        )
        info.write(self.part)
        replace(self.part, self.root)

    def path(self, split: str, kind: str, name: str) -> Path:
        """Return where a file of the sample goes; its folder exists afterwards."""
        if split not in SPLITS:
            raise DatasetError(f"split {printable(repr(split))} is unknown; splits are {', '.join(SPLITS)}")
        file_name(kind, f"{split}: target")
        file_name(name, f"{split}: file")
        folder = self.part / split / kind
        folder.mkdir(parents=True, exist_ok=True)
        return folder / name

    def add(
        self,
        split: str,
        sample_id: str,
        image: Path | np.ndarray,
        label: Path | np.ndarray | None,
        *,
        sequence: str = "",
        targets: Mapping[str, np.ndarray] | None = None,
        content: bytes | None = None,
    ) -> None:
        """Add a sample; threads may add at the same time.

        Args:
            split: `train`, `val` or `test`.
            sample_id: The file stem of image and label; unique within the split.
            image: A file, copied byte for byte, or RGB uint8 `[H, W, 3]`, written as PNG.
            label: An 8-bit PNG of class ids, or uint8 `[H, W]`; None in a dataset without classes.
            sequence: The video that the image is a frame of; empty where it stands alone.
            targets: Values of further targets, as `segmodels.data.targets` writes them.
            content: The bytes of the image file, where `image` is its name alone.

        Raises:
            DatasetError: The id stands twice in the split.
            NameRefusedError: The id cannot be the name of a file.
        """
        if isinstance(image, np.ndarray):
            target = self.path(split, "images", f"{sample_id}.png")
        else:
            target = self.path(split, "images", sample_id + image.suffix.lower())
        with self._adding:
            if (split, sample_id) in self._ids:
                raise DatasetError(f"{split}/{sample_id}: two samples have this id; rename one of the files")
            self._ids.add((split, sample_id))
        if content is None:
            _store(image, target)
        else:
            target.write_bytes(content)
        if label is not None:
            _store(label, self.path(split, "labels", f"{sample_id}.png"))
        for name, values in (targets or {}).items():
            path = self.path(split, name, sample_id + target_kind(name).suffix)
            target_kind(name).write(values, path, self.targets.get(name, {}))
        with self._adding:
            self.counts[split] = self.counts.get(split, 0) + 1
            if sequence:
                self.sequences.setdefault(split, {}).setdefault(sequence, []).append(sample_id)


def _store(data: Path | np.ndarray, target: Path) -> None:
    if isinstance(data, np.ndarray):
        # Level 1 is four times faster than the default and a tenth larger on labels.
        Image.fromarray(data).save(target, compress_level=1)
        return
    copy(data, target)
