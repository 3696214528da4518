"""What a scan saw of each sample, kept beside no data: a second scan reads only files that have changed.

A sample is as it was where each of its files has the size, times and inode that it had when it was read; a file that
was written within the last two seconds may change again within the same tick of the clock, and is not kept. One line of
JSON is one sample; a file whose last line is not the hash of all others counts for nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import PIL

from segmodels.files import cache_folder, replaced

# Changes whenever a scan measures in another way.
VERSION = 1
_SETTLED_NS = 2_000_000_000
_FORGOTTEN_SECONDS = 90 * 86400


def remembered(told: bytes, count: int, work: Callable[[], list[int | None]]) -> list[int | None]:
    """Return what was worked out of the same bytes before, or work it out and keep it.

    Args:
        told: All that the result depends on.
        count: Of the things.
        work: Gives a number for each of some things, most of them None.
    """
    path = cache_folder("validation") / f"{hashlib.sha256(told + bytes([VERSION])).hexdigest()[:32]}.json"
    try:
        held = json.loads(path.read_bytes())
        result: list[int | None] = [None] * count
        for index, value in held:
            result[int(index)] = int(value)
        return result
    except (OSError, ValueError, TypeError, IndexError):
        result = work()
    try:
        with replaced(path, shared=True) as part:
            part.write_text(json.dumps([[i, v] for i, v in enumerate(result) if v is not None]))
    except OSError:  # nothing can be kept there
        pass
    return result


class Cache:
    """The samples of one dataset folder that an earlier scan saw.

    Args:
        root: The dataset folder.
        meaning: What else their rows depend on: number of classes, further targets.
        folder: Where caches lie; by default in the user's cache folder.
    """

    def __init__(self, root: Path, meaning: Mapping[str, Any], folder: Path | None = None) -> None:
        place = os.fsencode(root.resolve())
        self.root = root
        self.path = (folder or cache_folder("validation")) / f"{hashlib.sha256(place).hexdigest()[:32]}.jsonl"
        versions = [VERSION, np.__version__, PIL.__version__]
        self.head = json.dumps([versions, meaning], sort_keys=True).encode()
        self.lines = self._read()

    def stamp(self, files: Iterable[str]) -> str | None:
        """Return what tells whether files are as they were; None where one of them may be changing."""
        told, newest = [], 0
        for name in files:
            try:
                stat = (self.root / name).stat()
            except OSError:
                return None
            newest = max(newest, stat.st_mtime_ns, stat.st_ctime_ns)
            told.append(f"{name} {stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}")
        return "\n".join(told) if time.time_ns() - newest >= _SETTLED_NS else None

    def get(self, key: str, stamp: str | None) -> dict[str, Any] | None:
        """Return the row of a sample that is as it was."""
        line = self.lines.get(key)
        if line is None or stamp is None:
            return None
        held = json.loads(line)
        row: dict[str, Any] | None = held[2] if held[1] == stamp else None
        return row

    def write(self, rows: Iterable[tuple[str, str | None, Mapping[str, Any]]]) -> None:
        """Keep rows, each with its key and its stamp; where there is no place for them nothing is kept."""
        try:
            with replaced(self.path, shared=True) as part, part.open("wb") as file:
                digest = hashlib.sha256(self.head)
                file.write(self.head + b"\n")
                for key, stamp, row in rows:
                    if stamp is None:
                        continue
                    line = json.dumps([key, stamp, row]).encode()
                    digest.update(line)
                    file.write(line + b"\n")
                file.write(digest.hexdigest().encode())
            self._forget()
        except OSError:
            return

    def _read(self) -> dict[str, bytes]:
        """Return the lines by their keys; none where the file is missing, damaged or of another meaning."""
        try:
            with self.path.open("rb") as file:
                head, *lines = file.read().split(b"\n")
            hashed = hashlib.sha256(head)
            for line in lines[:-1]:
                hashed.update(line)
            if head != self.head or not lines or lines[-1] != hashed.hexdigest().encode():
                return {}
            return {json.loads(line[1 : line.index(b'", "') + 1]): line for line in lines[:-1]}
        except (OSError, ValueError):
            return {}

    def _forget(self) -> None:
        for path in self.path.parent.glob("*.json*"):
            if time.time() - path.stat().st_mtime > _FORGOTTEN_SECONDS:
                path.unlink(missing_ok=True)
