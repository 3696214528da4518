"""Writes `streets` as a dataset folder."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from segmodels.data.folder import DatasetInfo
from segmodels.data.streets.classes import CLASSES
from segmodels.data.streets.render import TARGETS, render
from segmodels.data.targets import target
from segmodels.data.writer import DatasetWriter

VERSION = 1


def write_dataset(
    root: Path | str,
    *,
    seed: int,
    train: int,
    val: int,
    test: int,
    height: int = 240,
    width: int = 320,
    targets: Collection[str] = (),
    progress: Callable[[int, int], None] | None = None,
) -> DatasetInfo:
    """Render a dataset folder, completely or not at all.

    Targets are written as PNG: `instances` with 16 bits; `depth` with 16 bits, centimetres, 0 in the sky, at most
    655.35 m; `normals` with 8 bits a channel, (n + 1) * 127.5 rounded, so the sky's zero is 128.

    Args:
        root: The folder; what is there is replaced.
        seed: Seed of the dataset, >= 0.
        train: Number of training frames.
        val: Number of validation frames.
        test: Number of test frames; a split of 0 frames is left out.
        height: Of the images, pixels.
        width: Of the images, pixels.
        targets: Any of `instances`, `depth`, `normals`.
        progress: Called with (frames done, frames in all) after each frame.

    Raises:
        ValueError: A target is unknown.
    """
    kept = {name: target(name).stored for name in TARGETS if name in targets}
    counts = {split: count for split, count in (("train", train), ("val", val), ("test", test)) if count}
    source = {"generator": "streets", "seed": seed, "height": height, "width": width, "version": VERSION,
              "licence": "CC0-1.0"}  # fmt: skip
    total, done = sum(counts.values()), 0
    with DatasetWriter(root, "streets", CLASSES, source=source, targets=kept) as writer:
        for split, count in counts.items():
            for index in range(count):
                frame = render(seed, split, index, height=height, width=width, targets=targets)
                name = f"{index:06d}"
                writer.add(split, name, frame.image, frame.label)
                for kind in kept:
                    values = getattr(frame, kind)
                    target(kind).write(values, writer.path(split, kind, f"{name}.png"), target(kind).stored)
                done += 1
                if progress:
                    progress(done, total)
    return DatasetInfo.read(root)
