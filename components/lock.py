"""Where a project keeps what several runs share, and one run at a time for what two would spoil."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StepError
from segmodels.files import locked


def cache_folder() -> Path:
    """Return where downloads and locks are kept between runs: `.cache`, or the environment's `SEGMODELS_CACHE`."""
    return Path(os.environ.get("SEGMODELS_CACHE", ".cache"))


def project_folder(here: Path | None = None) -> Path:
    """Return the folder that relative paths of the settings begin in.

    It is the working directory, or the repository around the workspace of an experiment that DVC runs from its queue:
    these lie below `.dvc/tmp/exps`, and share what lies beside the project.
    """
    here = (here or Path.cwd()).resolve()
    parts = here.parts
    for i in range(len(parts) - 2):
        if parts[i : i + 3] == (".dvc", "tmp", "exps"):
            return Path(*parts[:i])
    return here


@contextmanager
def only_one(path: Path) -> Iterator[None]:
    """Hold `path` for this process; the lock goes with the process, so nothing is left after a kill.

    Raises:
        StepError: Another process holds it.
    """
    name = hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]
    busy = StepError(f"{path}: another run is writing it; wait for that one to end, or stop it")
    with locked(cache_folder() / "locks" / f"{name}.lock", busy):
        yield
