"""Which layout a folder has. Names of files alone tell it, and nothing is guessed: what fits two layouts is refused."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from segmodels.data.folder import DatasetError
from segmodels.data.formats.layout import Fit, Layout
from segmodels.errors import nearest

# Modules of this package that are no layouts.
SHARED = frozenset(
    {"channels", "cityscapes_json", "classes", "coco_json", "coding", "common", "converting", "decode", "finding"}
    | {"json_files", "layout", "mapping", "pages", "raw_labels", "truth", "vectors"}
)
# Stands last in lists.
GENERIC = "folder"
DEPTH = 3


@dataclass(frozen=True)
class Place:
    """A layout, the folder that it lies in, and what tells it."""

    layout: Layout
    folder: Path
    fit: Fit

    def __str__(self) -> str:
        lacks = f", but {self.fit.lacks} is missing" if self.fit.lacks else ""
        return f"{self.folder}: {self.layout.key} ({self.layout.title}): {self.fit.evidence}{lacks}"


@cache
def names() -> tuple[str, ...]:
    """Return the keys of all layouts; none is imported."""
    package = Path(__file__).parent
    listed = {module.name for module in pkgutil.iter_modules([str(package)])} - SHARED
    return (*sorted(listed - {GENERIC}), GENERIC)


@cache
def layouts() -> Mapping[str, Layout]:
    """Return every layout by its key, the generic one last."""
    return {name: importlib.import_module(f"segmodels.data.formats.{name}").LAYOUT for name in names()}


def layout(key: str) -> Layout:
    """Return the layout of this key.

    Raises:
        DatasetError: There is none.
    """
    if key not in names():
        near = nearest(key, list(names()))
        raise DatasetError(f"format {key!r} is unknown{near or '; known are auto, ' + ', '.join(names())}")
    return layouts()[key]


def find(root: Path | str, format: str = "auto") -> tuple[str, Path]:  # noqa: A002
    """Return the layout in `root`, or up to three folders below, and the folder it lies in.

    Particular layouts come before the generic one, wherever they lie; what lies in the folder of another is its part.

    Raises:
        DatasetError: No layout fits; or one almost does; or several do, or in several folders.
    """
    root = Path(root)
    if format != "auto":
        return format, _wanted(root, layout(format))
    return choose(root, detect(root))


def choose(root: Path, places: Iterable[Place]) -> tuple[str, Path]:
    """Return the layout and its folder, of all that `detect` gives.

    Raises:
        DatasetError: As `find` does.
    """
    fitting: list[Place] = []
    near: list[Place] = []
    for place in places:
        (near if place.fit.lacks else fitting).append(place)
    particular = [place for place in fitting if not place.layout.generic]
    if particular:
        chosen = _only(root, _outermost(particular))
        return chosen.layout.key, chosen.folder
    generic = [place for place in fitting if place.layout.generic]
    marked = [place for place in near if not place.layout.generic]
    if marked:
        place = marked[0]
        raise DatasetError(
            f"{place.folder}: this is {place.layout.title}: {place.fit.evidence}; but {place.fit.lacks} is missing "
            f"({place.layout.looks_for}). Add it"
            + (f", or set data.format to {GENERIC} if it is something else" if generic else "")
        )
    if not generic:
        raise DatasetError(_nothing(root))
    chosen = _only(root, _outermost(generic))
    return chosen.layout.key, chosen.folder


def detect(root: Path | str) -> Iterator[Place]:
    """Yield every layout that fits `root` or a folder up to three below, wholly or almost, the nearer first."""
    root = Path(root)
    for folder in folders(root):
        tried = {key: one for key, one in layouts().items() if not one.by_name}
        fits = {key: fit for key, one in tried.items() if (fit := one.fit(folder)) is not None}
        whole = {key for key, fit in fits.items() if not fit.lacks}
        beaten = {less for key in whole for less in layouts()[key].over}
        if any(not layouts()[key].generic for key in whole):
            beaten |= {key for key in fits if layouts()[key].generic}
        for key, fit in fits.items():
            if key not in beaten:
                yield Place(layouts()[key], folder, fit)


def folders(root: Path, depth: int = DEPTH) -> Iterator[Path]:
    """Yield `root` and the folders below it, the nearer first; links to folders are followed, hidden ones left out."""
    level = [root]
    for _ in range(depth + 1):
        yield from level
        level = [d for p in level for d in sorted(p.iterdir()) if d.is_dir() and not d.name.startswith((".", "__"))]


def _wanted(root: Path, wanted: Layout) -> Path:
    almost = None
    chosen: list[Place] = []
    for folder in folders(root):
        fit = wanted.fit(folder)
        if fit is not None and not fit.lacks:
            chosen.append(Place(wanted, folder, fit))
        elif fit is not None and almost is None:
            almost = Place(wanted, folder, fit)
    if chosen:
        return _only(root, _outermost(chosen)).folder
    if almost is not None:
        raise DatasetError(f"{almost}; {wanted.looks_for}")
    raise DatasetError(
        f"{root}: is not {wanted.key}, nor is a folder below; looked for {wanted.looks_for}; {_holds(root)}"
    )


def _outermost(places: Sequence[Place]) -> list[Place]:
    """Return the places that lie in no other's folder, several of one folder too; the nearer ones come first."""
    kept: list[Place] = []
    for place in places:
        if not any(one.folder in place.folder.parents for one in kept):
            kept.append(place)
    return kept


def _only(root: Path, places: Sequence[Place]) -> Place:
    if len(places) == 1:
        return places[0]
    keys = list(dict.fromkeys(place.layout.key for place in places))
    if len(keys) > 1:
        readings = "; ".join(f"{place.layout.key}, {place.folder}: {place.fit.evidence}" for place in places)
        raise DatasetError(
            f"{root}: fits {len(keys)} layouts ({readings}); name one with data.format (--layout), or give its folder"
        )
    lying = ", ".join(str(place.folder) for place in places[:4]) + (", …" if len(places) > 4 else "")
    raise DatasetError(f"{root}: is {places[0].layout.key} in {len(places)} folders ({lying}); give one of them")


def _nothing(root: Path) -> str:
    generic = layouts()[GENERIC].looks_for
    return (
        f"{root}: no known layout in it or below; looked for {generic}, and for {len(names()) - 1} layouts of "
        f"datasets and tools (`segmodels dataset layouts` lists them); {_holds(root)}"
    )


def _holds(root: Path) -> str:
    there = sorted(p.name + "/" * p.is_dir() for p in root.iterdir())
    return "it holds " + (", ".join(there[:8]) + (", …" if len(there) > 8 else "") if there else "nothing")
