"""A dataset folder as this project writes it: taken over as it is."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from segmodels.data.folder import INFO_FILE, SPLITS, DatasetError, DatasetInfo, samples
from segmodels.data.formats.layout import Fit, Job, Layout, Raw, Reading
from segmodels.data.writer import DatasetWriter
from segmodels.files import copy


def _detect(root: Path) -> Fit | None:
    if not (root / INFO_FILE).is_file() or not any((root / split / "images").is_dir() for split in SPLITS):
        return None
    return Fit(INFO_FILE)


def _copy(root: Path, out: Path, source: Mapping[str, object]) -> None:
    """Write the dataset folder `out` with the same files; what is wrong in them is left to the validation.

    Raises:
        DatasetError: `dataset.json` is not a description of a dataset, or there is no image.
    """
    info = DatasetInfo.read(root)
    licence = source.get("licence") or info.source.get("licence")
    merged = {**source, "licence": licence, "origin": dict(info.source)}
    with DatasetWriter(out, info.name, info.classes, source=merged, targets=info.targets) as writer:
        writer.image = info.image
        writer.sequences = {
            split: {name: list(ids) for name, ids in named.items()} for split, named in info.sequences.items()
        }
        for split in SPLITS:
            for kind in ("images", "labels", *info.targets):
                count = _link_all(root / split / kind, writer, split, kind)
                if kind == "images" and count:
                    writer.counts[split] = count
        if not writer.counts:
            raise DatasetError(f"{root}: has no image under train/images, val/images or test/images")


def _link_all(folder: Path, writer: DatasetWriter, split: str, kind: str) -> int:
    files = [p for p in sorted(folder.iterdir()) if p.is_file()] if folder.is_dir() else []
    for path in files:
        target = writer.path(split, kind, path.name)
        copy(path, target)
    return len(files)


def _read(root: Path, job: Job) -> Reading:
    """Return its samples, for a mapping of their classes; further targets are left out."""
    info = DatasetInfo.read(root)
    job.left_out(list(info.targets), "targets beside the labels; classes alone are mapped")
    listed = {split: samples(root, split) for split in SPLITS if info.splits.get(split)}
    order = {i: name for held in info.sequences.values() for name, ids in held.items() for i in ids}
    raws = [Raw(s.id, s.image, s.label, split, "", order.get(s.id, "")) for split, held in listed.items() for s in held]
    return Reading(info.classes, raws, info.name, image=info.image)


LAYOUT = Layout(
    "dataset",
    "Dataset folder",
    home="",
    licence="",
    looks_for="dataset.json beside train/images/ and train/labels/",
    read=_read,
    detect=_detect,
    copy=_copy,
    splits="its own",
    classes="its own",
)
