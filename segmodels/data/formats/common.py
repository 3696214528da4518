"""What several formats need: deterministic splits, and errors that list every offender."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from segmodels.data.folder import IMAGE_SUFFIXES, DatasetError
from segmodels.files import utf8

SHOWN = 20


@dataclass(frozen=True)
class Splitting:
    """How samples are dealt to splits where the data itself says nothing.

    Attributes:
        seed: Another seed deals them differently.
        val_fraction: About this part becomes `val`, 0..1.
        test_fraction: About this part becomes `test`, 0..1; 0 for none.
    """

    seed: int = 0
    val_fraction: float = 0.15
    test_fraction: float = 0.15

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
    """Yield the image files under `folder`, nested ones too, sorted; hidden ones (`._x.png` of macOS) left out.

    Raises:
        NameRefusedError: A name is not UTF-8.
    """
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file():
            yield utf8(path)
