"""Progress in bytes: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.download.disk import human

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(
    label: str, total: int | None, done: int = 0
) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told of every further piece.

    Args:
        label: What is going on, e.g. a file's name.
        total: Bytes in all, if known.
        done: Bytes that an earlier run brought.
    """
    if sys.stderr.isatty():
        with _bar(label, total, done) as advance:
            yield advance
    else:
        with _lines(label, total, done) as advance:
            yield advance


@contextmanager
def _bar(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda size: bar.advance(task, size)


@contextmanager
def _lines(label: str, total: int | None, done: int) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    count = done

    def advance(size: int) -> None:
        nonlocal count, last
        count += size
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            of = (
                f" of {human(total)} ({100 * count // max(total, 1)} %)"
                if total
                else ""
            )
            print(f"{label}: {human(count)}{of}", file=sys.stderr, flush=True)

    yield advance
    print(
        f"{label}: {human(count)} in {time.monotonic() - start:.0f} s",
        file=sys.stderr,
        flush=True,
    )
