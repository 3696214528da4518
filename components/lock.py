"""One run at a time for what two runs would spoil."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StepError


def cache_folder() -> Path:
    """Where downloads and locks are kept between runs: `.cache`, or the environment's `SEGMODELS_CACHE`."""
    return Path(os.environ.get("SEGMODELS_CACHE", ".cache"))


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Holds `path` for this process; the lock goes with the process, so nothing is left after a kill.

    Raises:
        StepError: Another process holds it.
    """
    folder = cache_folder() / "locks"
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    with (folder / f"{name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise StepError(f"{path}: another run is writing it; wait for that one to end, or stop it") from None
        yield
