"""Trouble with the disk, said in one sentence."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from components.errors import StepError

FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk under `path` into a StepError."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        if error.errno in FULL:
            raise StepError(
                f"{where}: the disk is full ({error.strerror}); free some space and run it again, "
                "what was there before is untouched"
            ) from None
        if error.errno in REFUSED:
            raise StepError(f"{where}: cannot be read or written ({error.strerror}); mend its permissions") from None
        raise


def need_space(folder: Path, size: int, what: str) -> None:
    """Raise before the first byte is written where the disk cannot hold `size` bytes.

    Raises:
        StepError: There is less space.
    """
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StepError(
            f"{what}: needs {human(size)}, but the disk of {folder} has {human(free)} left; "
            "free some space and run it again"
        )


def human(size: float) -> str:
    """Return a number of bytes as people write it: 12 B, 3.4 MB."""
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
