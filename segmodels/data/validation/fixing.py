"""Write a dataset folder anew without what is certainly wrong with it; what needs a person's eye stays as it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmodels.data.folder import SPLITS, DatasetError, DatasetInfo
from segmodels.data.validation.scan import Scanned, scan, strays
from segmodels.files import copy, replaced

_NAMED = 3


@dataclass(frozen=True)
class Change:
    """What was left out for one reason.

    Attributes:
        why: The reason, in words.
        names: Files, relative to the dataset folder.
    """

    why: str
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = len(self.names) - _NAMED
        return f"{len(self.names)} left out: {self.why}: {', '.join(self.names[:_NAMED])}" + (
            f" and {more} more" if more > 0 else ""
        )


def fix(
    root: Path, out: Path, *, needs: Sequence[str] = (), progress: Callable[[int, int], None] | None = None
) -> list[Change]:
    """Write a dataset folder to `out` without samples that cannot be used and copies of images; `root` stays as it is.

    Left out are samples whose image, label or further target is missing, unreadable or cut; images that stand in
    another split, too, from `train` before `val`, and never from `test`; copies with the same label within `train` or
    `val`; and files of no sample. Copies whose labels differ, and all that is only probably wrong, stay.

    Args:
        root: The dataset folder.
        out: The new one; it must not exist.
        needs: Targets that every sample must have, beside those that `dataset.json` names.
        progress: Called with the samples that are read, and with all of them.

    Returns:
        What was left out, by reason.

    Raises:
        DatasetError: `out` exists or lies within `root`, or nothing is left to train or to choose models on.
    """
    info = DatasetInfo.read(root)
    if out.exists():
        raise DatasetError(f"{out}: exists; name a folder that does not")
    if out.resolve().is_relative_to(root.resolve()):
        raise DatasetError(f"{out}: lies within {root}; name a folder outside of it")
    scanned = scan(root, info, needs, progress, cached=True)
    dropped = dict(_dropped(scanned))
    kept = [row for row in range(len(scanned)) if row not in dropped]
    for split in ("train", "val"):
        if not any(scanned.columns["split"][row] == split for row in kept):
            raise DatasetError(f"{root}: no sample of {split} is left that can be used; it needs other data")
    with replaced(out) as part:
        for row in kept:
            _copy_sample(root, part, scanned.columns["split"][row], scanned.columns["image"][row])
        _described(info, scanned, kept).write(part)
    by_reason: dict[str, list[str]] = {}
    for row, why in sorted(dropped.items()):
        by_reason.setdefault(why, []).append(scanned.columns["image"][row])
    for stray in strays(root):
        by_reason.setdefault(f"{stray['why']}", []).append(stray["path"])
    return [Change(why, tuple(names)) for why, names in by_reason.items()]


def _dropped(scanned: Scanned) -> Iterator[tuple[int, str]]:
    """Yield samples that cannot stay, each with the reason."""
    had = scanned.columns
    usable = []
    for row in range(len(scanned)):
        if had["label"][row] is None:
            yield row, "no label"
        elif had["image_error"][row]:
            yield row, "the image cannot be read"
        elif had["label_error"][row]:
            yield row, "the label cannot be read"
        elif had["target_error"][row]:
            yield row, "a further target cannot be used"
        else:
            usable.append(row)
    copies: dict[str, list[int]] = {}
    for row in usable:
        copies.setdefault(had["pixels_sha256"][row], []).append(row)
    for rows in copies.values():
        last = max(SPLITS.index(had["split"][row]) for row in rows)
        labels = set()
        for row in rows:
            split = had["split"][row]
            if SPLITS.index(split) < last:
                yield row, f"its image stands in {SPLITS[last]}, too"
            elif split != "test" and had["label_pixels"][row] in labels:
                yield row, "a copy of another sample of its split"
            labels.add(had["label_pixels"][row])


def _copy_sample(root: Path, part: Path, split: str, image: str) -> None:
    """Copy an image and what lies beside it under its name in other folders of the split."""
    source, stem = root / image, Path(image).stem
    for folder in sorted((root / split).iterdir()):
        if not folder.is_dir():
            continue
        for file in [source] if folder.name == "images" else sorted(folder.glob(f"{_literal(stem)}.*")):
            if file.stem == stem:
                (part / split / folder.name).mkdir(parents=True, exist_ok=True)
                copy(file, part / split / folder.name / file.name)


def _literal(name: str) -> str:
    """Return a name as a pattern that only it fits."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


def _described(info: DatasetInfo, scanned: Scanned, kept: Sequence[int]) -> DatasetInfo:
    ids = {(scanned.columns["split"][row], scanned.columns["id"][row]) for row in kept}
    counts = {split: sum(of == split for of, _ in ids) for split in SPLITS}
    sequences = {
        split: {
            name: tuple(frame for frame in frames if (split, frame) in ids)
            for name, frames in named.items()
            if any((split, frame) in ids for frame in frames)
        }
        for split, named in info.sequences.items()
    }
    return replace(info, splits={split: count for split, count in counts.items() if count}, sequences=sequences)
