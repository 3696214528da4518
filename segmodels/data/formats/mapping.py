"""From a layout's classes to those that are trained on: merged, renamed, left out.

    data.classes: {vehicle: [car, bus], road: [road], other: ["*"]}      `*`: all that no other class takes
    data.ignore: [sky]

A class that no entry takes is void, and a line says which these are.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from segmodels.data.folder import IGNORE_INDEX, MAX_CLASSES, ClassInfo, DatasetError
from segmodels.data.formats.layout import Choices, void_of
from segmodels.errors import nearest

REST = "*"

log = logging.getLogger(__name__)


class Mapping:
    """Class index of a layout -> class id of the dataset folder.

    Args:
        classes: Those of the layout.
        choices: `classes` and `ignore` of a person.

    Attributes:
        classes: Those of the dataset folder.
        changes: Whether it changes anything.

    Raises:
        DatasetError: A name is no class of the layout or stands twice, or more than 255 classes are left.
    """

    def __init__(self, classes: Sequence[ClassInfo], choices: Choices) -> None:
        names = [info.name for info in classes]
        ignored = {_place(name, names, "data.ignore") for name in choices.ignore if isinstance(name, str)}
        if choices.classes is None:
            kept = [index for index in range(len(classes)) if index not in ignored]
            merged = [(names[index], [index]) for index in kept]
        else:
            merged = _merged(names, choices, ignored)
        taken = {index for _, members in merged for index in members}
        left = [names[index] for index in range(len(names)) if index not in taken]
        if left:
            shown = ", ".join(left[:6]) + (", …" if len(left) > 6 else "")
            log.warning("%d of %d classes are void: %s", len(left), len(names), shown)
        if not merged and names:
            raise DatasetError("data.ignore: every class is ignored; leave one")
        if len(merged) > MAX_CLASSES:
            raise DatasetError(
                f"{len(merged)} classes; labels of 8 bits hold at most {MAX_CLASSES}: choose or merge some with "
                "data.classes, e.g. {vehicle: [car, bus]}"
            )
        self.classes = tuple(ClassInfo(name, classes[members[0]].color) for name, members in merged)
        self._lookup = np.full(void_of(classes) + 1, IGNORE_INDEX, np.uint8)
        for new, (_, members) in enumerate(merged):
            self._lookup[members] = new
        self.changes = len(classes) > IGNORE_INDEX or merged != [(n, [i]) for i, n in enumerate(names)]
        self._known = len(classes)

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """Return labels of the layout's class indices as class ids, uint8.

        Raises:
            DatasetError: An index is neither a class nor void; only where the mapping changes something, otherwise it
                is left to the validation.
        """
        if not self.changes:
            return labels
        void = len(self._lookup) - 1
        stray = labels[(labels >= self._known) & (labels != void)]
        if stray.size:
            raise DatasetError(f"label {int(stray[0])} is outside 0..{self._known - 1}, so data.classes cannot map it")
        return self._lookup[labels]


def _merged(names: Sequence[str], choices: Choices, ignored: set[int]) -> list[tuple[str, list[int]]]:
    assert choices.classes is not None
    taken: dict[int, str] = {}
    merged: list[tuple[str, list[int]]] = []
    rest = None
    for new, members in choices.classes.items():
        places: list[int] = []
        for member in [members] if isinstance(members, str) else members:
            if member == REST:
                if rest is not None:
                    raise DatasetError(f"data.classes: `{REST}` stands for {merged[rest][0]} and for {new}; keep one")
                rest = len(merged)
                continue
            place = _place(member, names, f"data.classes.{new}")
            if place in taken or place in ignored:
                other = taken.get(place, "data.ignore")
                raise DatasetError(f"data.classes: {member} belongs to {other} and to {new}; keep one")
            taken[place] = new
            places.append(place)
        merged.append((new, places))
    if rest is not None:
        merged[rest][1].extend(i for i in range(len(names)) if i not in taken and i not in ignored)
    empty = next((new for new, places in merged if not places), None)
    if empty is not None:
        raise DatasetError(f"data.classes.{empty}: no class becomes it; name one, or take the line out")
    return merged


def _place(name: str, names: Sequence[str], key: str) -> int:
    if names.count(name) > 1:
        raise DatasetError(f"{key}: {names.count(name)} classes are called {name}")
    if name not in names:
        near = nearest(name, list(names))
        raise DatasetError(f"{key}: {name!r} is no class of the data{near or '; these are ' + ', '.join(names[:12])}")
    return names.index(name)
