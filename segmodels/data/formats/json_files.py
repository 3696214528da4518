"""Folders with a JSON file for each image, as several tools write them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from segmodels.data.folder import SPLITS
from segmodels.data.formats.folder import SPLIT_FOLDERS
from segmodels.data.formats.layout import Job
from segmodels.files import ContentError, read_json

# An image inside it may have tens of megabytes.
LIMIT = 1 << 28
LOOKED = 3
PATTERNS = ("*.json", "*/*.json", "*/*/*.json")


def first_with(root: Path, words: Sequence[str]) -> Path | None:
    """Return a JSON file, in the folder or one or two below, whose text begins and ends with these words in it."""
    for pattern in PATTERNS:
        for path in islice((p for p in root.glob(pattern) if visible(p, root)), LOOKED):
            text = ends(path)
            if all(word.encode() in text for word in words):
                return path
    return None


def each_with(root: Path, keys: Sequence[str], job: Job) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield each JSON file that is a mapping with these keys; others are left out, damaged ones are problems."""
    other = []
    for path in sorted(p for p in root.rglob("*.json") if visible(p, root)):
        try:
            content = read_json(path, LIMIT)
        except ContentError as error:
            job.problems.append(str(error))
            continue
        if isinstance(content, dict) and all(key in content for key in keys):
            yield path, content
        else:
            other.append(path)
    job.left_out(other, f"these have no {' and '.join(keys)}")


def ends(path: Path, size: int = 1 << 15) -> bytes:
    """Return the beginning and the end of a file."""
    with path.open("rb") as file:
        head = file.read(size)
        file.seek(max(0, path.stat().st_size - size))
        return head + file.read()


def visible(path: Path, root: Path) -> bool:
    """Tell whether a path below a folder is neither hidden nor in a hidden folder."""
    return not any(part.startswith(".") for part in path.relative_to(root).parts)


def split_of(path: Path, root: Path) -> str | None:
    """Return the split that a folder between `root` and a file is called after; None where there is none."""
    names = [part.lower() for part in path.relative_to(root).parent.parts]
    split = next((SPLIT_FOLDERS[name] for name in names if name in SPLIT_FOLDERS), None)
    return split if split in SPLITS else None
