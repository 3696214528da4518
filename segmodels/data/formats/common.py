"""What several formats need: deterministic splits, and errors that list every offender."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmodels.data.folder import IMAGE_SUFFIXES, DatasetError
from segmodels.files import utf8

SHOWN = 20
# Endings of images that no reader has.
UNREAD = frozenset(
    {".gif", ".heic", ".heif", ".jp2", ".avif", ".tga", ".dng", ".npy", ".exr", ".hdr", ".pgm", ".svg", ".psd"}
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Splitting:
    """How samples are dealt to splits where the data itself says nothing.

    Attributes:
        seed: Another seed deals them differently.
        val_fraction: About this part becomes `val`, 0..1.
        test_fraction: About this part becomes `test`, 0..1; 0 for none.
        folds: Parts into which all but `test` are dealt for cross-validation; None deals no folds.
        fold: The part that is `val`, from 0.
        fraction: Part of `train` that is kept, above 0 to 1: what a model learns from fewer images.
    """

    seed: int = 0
    val_fraction: float = 0.15
    test_fraction: float = 0.15
    folds: int | None = None
    fold: int = 0
    fraction: float = 1.0

    def folded(self, ids: Iterable[str], groups: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return `val` for each id of the fold, and `train` for the others; groups stay together.

        Folds are dealt in the order of hashes, so that their sizes differ by one group at most, and every sample is in
        one of them.

        Raises:
            DatasetError: There are fewer groups than folds.
        """
        of = {i: (groups or {}).get(i, i) for i in ids}
        ordered = sorted(set(of.values()), key=lambda group: (self._place(f"fold:{group}"), group))
        if self.folds is None or len(ordered) < self.folds:
            raise DatasetError(f"data.folds is {self.folds}, but there are {len(ordered)} samples or groups to deal")
        held = set(ordered[self.fold :: self.folds])
        return {i: "val" if of[i] in held else "train" for i in of}

    def kept(self, ids: Iterable[str], groups: Mapping[str, str] | None = None) -> set[str]:
        """Return the training samples that are kept of a fraction: of a larger one the same and more."""
        of = {i: (groups or {}).get(i, i) for i in ids}
        ordered = sorted(set(of.values()), key=lambda group: (self._place(f"fraction:{group}"), group))
        few = set(ordered[: max(1, round(self.fraction * len(ordered)))])
        return {i for i in of if of[i] in few}

    def assign(self, ids: Iterable[str], groups: Mapping[str, str] | None = None) -> dict[str, str]:
        """Return a split for each id, by the hash of the id alone: a sample stays where it is when others come or go.

        Only where a split that was asked for would stay empty, the sample nearest to it is moved there.

        Args:
            ids: The samples.
            groups: Id -> its group, whose samples stay together; ids that are not in it are groups of their own. Fewer
                groups than splits are cut: of each, its last samples in the order of their ids become `val` and `test`.
        """
        listed = sorted(ids)
        if groups:
            of = {i: groups.get(i, i) for i in listed}
            if len(set(of.values())) >= 1 + (self.val_fraction > 0) + (self.test_fraction > 0):
                dealt = self.assign(set(of.values()))
                return {i: dealt[of[i]] for i in listed}
            return self._cut(listed, of)
        places = {i: self._place(i) for i in listed}
        test, val = self.test_fraction, self.test_fraction + self.val_fraction
        splits = {i: "test" if place < test else "val" if place < val else "train" for i, place in places.items()}
        goals = {"train": 1.0, "val": test, "test": 0.0}
        wanted = ["train"] + ["val"] * (self.val_fraction > 0) + ["test"] * (self.test_fraction > 0)
        wanted = wanted[: len(splits)]
        for split in wanted:
            held = list(splits.values())
            if split not in held:
                spare = [i for i in places if held.count(splits[i]) > 1 or splits[i] not in wanted]
                splits[min(spare, key=lambda i: abs(places[i] - goals[split]))] = split
        return splits

    def _cut(self, ids: Sequence[str], groups: Mapping[str, str]) -> dict[str, str]:
        splits = {}
        for group in sorted(set(groups.values())):
            members = [i for i in ids if groups[i] == group]
            test = round(len(members) * self.test_fraction)
            val = max(1, round(len(members) * self.val_fraction)) if len(members) > 1 else 0
            last = len(members) - test
            for place, member in enumerate(members):
                splits[member] = "test" if place >= last else "val" if place >= last - val else "train"
        return splits

    def _place(self, sample_id: str) -> float:
        digest = hashlib.sha256(f"{self.seed}:{sample_id}".encode()).digest()
        return int.from_bytes(digest[:8], "big") / 2**64


def refuse(problems: Sequence[str]) -> None:
    """Raise one error for all problems; does nothing where there are none.

    Raises:
        DatasetError: There are problems; the first twenty are listed.
    """
    if not problems:
        return
    if len(problems) == 1:
        raise DatasetError(problems[0])
    rest = f"\n  … and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    raise DatasetError(f"{len(problems)} problems in the data:\n  " + "\n  ".join(problems[:SHOWN]) + rest)


def image_files(folder: Path) -> Iterator[Path]:
    """Yield the image files under `folder`, nested ones too, sorted.

    Links to folders are followed. Hidden files and what lies in hidden folders (`.ipynb_checkpoints`, `._x.png` of
    macOS) is left out; so are files with endings that no reader has, and a line says how many.

    Raises:
        NameRefusedError: A name is not UTF-8.
        DatasetError: A link leads nowhere.
    """
    if not folder.is_dir():
        return
    other: list[Path] = []
    for path in sorted(_files(folder, {folder.resolve()})):
        if path.suffix.lower() not in IMAGE_SUFFIXES:
            if path.suffix.lower() in UNREAD:
                other.append(path)
        elif not path.exists():
            raise DatasetError(f"{path}: is a link to {path.readlink()}, which is not there; mend or remove it")
        else:
            yield utf8(path)
    if other:
        log.warning("%s: %d files are left out, %s first: no reader has its ending", folder, len(other), other[0])


def _files(folder: Path, above: set[Path]) -> Iterator[Path]:
    for entry in folder.iterdir():
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            real = entry.resolve()
            if real not in above:  # a link that leads back
                yield from _files(entry, above | {real})
        elif entry.is_file() or entry.is_symlink():
            yield entry
