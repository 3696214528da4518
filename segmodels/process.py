"""How a program of this project allocates, collects and takes cores; a library leaves that to the program it is in."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import sys

from segmodels.threads import limit_threads

# mallopt(3)
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
# Objects that are made before Python looks for cycles among them; its own 700 suits programs that make few, and much
# more than this gains nothing and keeps what is garbage, tensors among it, for longer.
COLLECT_AFTER = 10_000


def set_up_process(share: int = 1) -> None:
    """Do what every command does first, before it imports torch; `benchmarks/process.py` measures what it gains.

    See `keep_freed_memory`, `collect_less` and `segmodels.threads.limit_threads`.

    Args:
        share: Processes that train together on this machine.
    """
    keep_freed_memory()
    collect_less()
    limit_threads(share)


def keep_freed_memory() -> bool:
    """Has glibc keep what is freed, for processes that train or predict; whether it will.

    By default large blocks go back to the system as soon as they are freed, and each activation begins with page faults
    and zeroing: on two cores a fifth of a training step, a third of a prediction. The process then holds the most that
    it ever needed. Where the environment says how to allocate (`MALLOC_…`), or in other C libraries, nothing changes.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        tune = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # no glibc
        return False
    return all(tune(name, value) for name, value in ((MMAP_MAX, 0), (TRIM_THRESHOLD, 2**31 - 1), (ARENA_MAX, 1)))


def collect_less() -> None:
    """Has Python look for cycles among its objects less often, and not at all when it ends.

    Importing what trains makes half a million objects that all stay. To go through them again and again, and once more
    when the process ends, takes a quarter to a third of the time of a process that only does that.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    # Registered before everything else, and therefore the last to run.
    atexit.register(gc.freeze)
