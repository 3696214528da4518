"""Progress, in bytes or in samples: a bar in a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from components.disk import human

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def progress(label: str, total: int | None, done: int = 0, *, samples: bool = False) -> Iterator[Callable[[int], None]]:
    """Give a function that is told of every further piece.

    Args:
        label: What is going on, e.g. a file's name.
        total: Bytes in all, if known.
        done: Bytes that an earlier run brought.
        samples: Whether it is samples that are counted, not bytes.
    """
    with (_bar if sys.stderr.isatty() else _lines)(label, total, done, samples) as advance:
        yield advance


@contextmanager
def _bar(label: str, total: int | None, done: int, samples: bool) -> Iterator[Callable[[int], None]]:
    from rich import progress as rich
    from rich.console import Console

    counts = [rich.MofNCompleteColumn()] if samples else [rich.DownloadColumn(), rich.TransferSpeedColumn()]
    columns = [
        rich.TextColumn("{task.description}", markup=False),
        rich.BarColumn(),
        *counts,
        rich.TimeRemainingColumn(),
    ]
    with rich.Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=total, completed=done)
        yield lambda size: bar.advance(task, size)


@contextmanager
def _lines(label: str, total: int | None, done: int, samples: bool) -> Iterator[Callable[[int], None]]:
    start = last = time.monotonic()
    count = done
    say: Callable[[float], str] = (lambda n: f"{n} samples") if samples else human

    def advance(size: int) -> None:
        nonlocal count, last
        count += size
        if time.monotonic() - last > SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            of = f" of {say(total)} ({100 * count // max(total, 1)} %)" if total else ""
            print(f"{label}: {say(count)}{of}", file=sys.stderr, flush=True)

    yield advance
    print(f"{label}: {say(count)} in {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
