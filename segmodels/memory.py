"""What becomes of freed memory: it stays with the process, whose next tensor is of the same size."""

from __future__ import annotations

import ctypes
import os
import sys

# mallopt(3)
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, for processes that train or predict; whether it will.

    By default large blocks go back to the system as soon as they are freed, and each activation begins with page faults
    and zeroing: on two cores a sixth of a training step, a quarter of a served request. The process then holds the most
    that it ever needed. Where the environment says how to allocate (`MALLOC_…`), or in other C libraries, nothing
    changes.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    return all(tune(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1)))
