"""One file over an unreliable line: resume, retry with back-off, and nothing half-written under the final name.

The bytes go to `<target>.part`; beside it `<target>.json` notes the version (ETag or date) that they belong to, so that
a later run goes on where this one stopped, unless the file has changed meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path

from components.disk import human, need_space
from components.download.progress import progress
from components.errors import StepError

MAX_WAIT = 60.0
PROGRESS_THAT_COUNTS = 1 << 20


@dataclass(frozen=True)
class Body:
    """The answer of a server.

    Attributes:
        start: Offset of its first byte: what was asked for, or 0 where the server starts anew.
        total: Size of the whole file, where known.
        version: ETag or date, by which a resumed download is known to be of the same file.
        chunks: The bytes; may raise `LineError`.
    """

    start: int
    total: int | None
    version: str | None
    chunks: Iterator[bytes]


@dataclass(frozen=True)
class Note:
    """What is known of the file that lies in the cache, whole or in part."""

    version: str | None = None
    total: int | None = None


class LineError(Exception):
    """Worth another attempt: time-out, connection cut, a server that is busy."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class NotModifiedError(Exception):
    """The server has no newer version than the one asked about."""


class OtherVersionError(Exception):
    """The file is not the one of which a part lies here."""


Opener = Callable[[int, str | None, bool], Body]
"""(offset, version, whole): whole asks for the file unless it still is `version`; else for the rest of `version`."""


def transfer(
    opener: Opener,
    target: Path,
    *,
    label: str,
    retries: int,
    backoff: float = 0.5,
    verified: bool = False,
    quiet: bool = False,
) -> None:
    """Bring a file to `target`, or leaves it there where the server says that it is still the same.

    Args:
        opener: Asks the server.
        target: The final name.
        label: The address as shown to the user.
        retries: Attempts after the first; every megabyte that arrives starts the count anew.
        backoff: Seconds before the first retry; doubled each time, with jitter.
        verified: A checksum will be compared, so a part may be resumed where the server names no version.
        quiet: Shows no progress; for one of many small files.

    Raises:
        StepError: The line stays down, or the disk cannot hold the file.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _part_size(target)
        try:
            _attempt(opener, target, label, verified, quiet)
        except NotModifiedError:
            return
        except OtherVersionError:
            _part(target).unlink(missing_ok=True)
            failures += 1
            reason, wait = "the file changed while it was downloaded", None
        except LineError as error:
            failures = 1 if _part_size(target) - before >= PROGRESS_THAT_COUNTS else failures + 1
            reason, wait = str(error), error.wait
        else:
            return
        if failures > retries:
            raise StepError(_gave_up(label, target, reason, failures))
        time.sleep(_pause(failures, backoff, wait))


def _attempt(opener: Opener, target: Path, label: str, verified: bool, quiet: bool) -> None:
    part, note = _part(target), _read_note(target)
    offset = _part_size(target) if note.version or verified else 0
    if offset and offset == note.total:
        os.replace(part, target)
        return
    whole = offset == 0 and target.is_file()
    body = opener(offset, note.version if offset or whole else None, whole)
    if body.start not in (0, offset) or (body.start and note.total not in (None, body.total)):
        raise OtherVersionError
    if body.total is not None:
        need_space(target.parent, body.total - body.start, label)
    target.unlink(missing_ok=True)
    _write_note(target, Note(body.version, body.total))
    shown: AbstractContextManager[Callable[[int], None]]
    shown = nullcontext(lambda size: None) if quiet else progress(label, body.total, body.start)
    with part.open("ab" if body.start else "wb") as file, shown as advance:
        for chunk in body.chunks:
            file.write(chunk)
            advance(len(chunk))
    size = _part_size(target)
    if body.total is not None and size < body.total:
        raise LineError(f"the connection was cut at {human(size)} of {human(body.total)}")
    if body.total is not None and size > body.total:
        raise OtherVersionError
    os.replace(part, target)


def _gave_up(label: str, target: Path, reason: str, failures: int) -> str:
    size = _part_size(target)
    kept = f"; {human(size)} are kept, and the next run goes on from there" if size else ""
    attempts = "1 attempt" if failures == 1 else f"{failures} attempts"
    return f"{label}: cannot be downloaded after {attempts}: {reason}; check the network and run it again{kept}"


def _pause(failures: int, backoff: float, wait: float | None) -> float:
    seconds = backoff * 2.0 ** (failures - 1) * random.uniform(0.5, 1.0)
    return min(MAX_WAIT, max(seconds, wait or 0.0))


def _part(target: Path) -> Path:
    return target.with_name(target.name + ".part")


def _part_size(target: Path) -> int:
    part = _part(target)
    return part.stat().st_size if part.is_file() else 0


def _note_path(target: Path) -> Path:
    return target.with_name(target.name + ".json")


def _read_note(target: Path) -> Note:
    try:
        return Note(**json.loads(_note_path(target).read_text()))
    except (OSError, ValueError, TypeError):
        return Note()


def _write_note(target: Path, note: Note) -> None:
    path = _note_path(target)
    new = path.with_name(path.name + ".new")
    new.write_text(json.dumps(asdict(note)))
    os.replace(new, path)
