"""Several dataset folders as one: classes of one name are one class, whatever their ids were.

What is called differently in two datasets is brought to one name before, where they are read (`data.classes`,
`segmodels dataset convert --merge`): every dataset has its own mapping into the common classes (Lambert et al.,
"MSeg", CVPR 2020).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmodels.data.folder import (
    IGNORE_INDEX,
    MAX_CLASSES,
    SPLITS,
    DatasetError,
    DatasetInfo,
    Sample,
    read_label,
    samples,
)
from segmodels.data.formats.converting import in_order
from segmodels.data.targets import target
from segmodels.data.writer import DatasetWriter


def merge(roots: Sequence[Path], out: Path, name: str) -> DatasetInfo:
    """Write dataset folders as one; splits stay as they are.

    Args:
        roots: Dataset folders, at least two; classes are in the order of the first, then what the others add.
        out: The dataset folder to write.
        name: Its name.

    Returns:
        Its description.

    Raises:
        DatasetError: One is no dataset folder, images are read in several ways, or there are too many classes.
    """
    infos = [DatasetInfo.read(root) for root in roots]
    if any(dict(info.image) != dict(infos[0].image) for info in infos):
        raise DatasetError(
            f"{roots[0]} and others: their images are read with other bands or scales; write them with the same "
            "data.bands and data.scale (numbers, not auto)"
        )
    classes = tuple({c.name: c for info in reversed(infos) for c in reversed(info.classes)}.values())
    classes = tuple(sorted(classes, key=lambda c: _place(c.name, infos)))
    if len(classes) > MAX_CLASSES:
        raise DatasetError(f"{out}: would have {len(classes)} classes; labels of 8 bits hold {MAX_CLASSES}")
    ids = {c.name: index for index, c in enumerate(classes)}
    first = infos[0].targets
    common = {t: first[t] for t in first if all(info.targets.get(t) == first[t] for info in infos)}
    prefixes = _prefixes(roots, infos)
    work: list[tuple[int, str, Sample]] = [
        (number, split, sample)
        for number, root in enumerate(roots)
        for split in SPLITS
        if infos[number].splits.get(split)
        for sample in samples(root, split, ("labels", *common))
    ]
    tables = []
    for info in infos:
        table = np.full(256, IGNORE_INDEX, np.uint8)
        table[: info.num_classes] = [ids[c.name] for c in info.classes]
        tables.append(table)
    source = {"merged": [dict(info.source) for info in infos], "licence": _licences(infos)}
    with DatasetWriter(out, name, classes, source=source, targets=common) as writer:
        writer.image = infos[0].image

        def store(one: tuple[int, str, Sample]) -> None:
            number, split, sample = one
            info, prefix = infos[number], prefixes[number]
            frames = {i: named for named, held in info.sequences.get(split, {}).items() for i in held}
            film = frames.get(sample.id, "")
            truth = {t: _values(sample, t, common) for t in common}
            writer.add(
                split, f"{prefix}_{sample.id}", sample.image, tables[number][read_label(sample.label)],
                sequence=f"{prefix}_{film}" if film else "", targets=truth,
            )  # fmt: skip

        for _ in in_order(store, work):
            pass
    return DatasetInfo.read(out)


def _values(sample: Sample, name: str, stored: Mapping[str, Mapping[str, Any]]) -> np.ndarray:
    kind = target(name)
    values = kind.read(sample.targets[name], stored[name])
    return values.transpose(1, 2, 0) if values.ndim == 3 else values


def _place(name: str, infos: Sequence[DatasetInfo]) -> tuple[int, int]:
    return next((n, info.class_names.index(name)) for n, info in enumerate(infos) if name in info.class_names)


def _prefixes(roots: Sequence[Path], infos: Sequence[DatasetInfo]) -> list[str]:
    """Return what stands before the ids of each: its name, or that of its folder where names are equal."""
    names = [info.name for info in infos]
    if len(set(names)) < len(names):
        names = [root.resolve().name for root in roots]
    if len(set(names)) < len(names):
        names = [f"{number}_{name}" for number, name in enumerate(names)]
    return names


def _licences(infos: Sequence[DatasetInfo]) -> str | None:
    return "; ".join(dict.fromkeys(str(i.source["licence"]) for i in infos if i.source.get("licence"))) or None
