"""How a program of this project allocates, collects garbage and shares the cores of a machine.

Threads of a parallel region wait for each other at its end, and they wait by spinning: libgomp's for milliseconds,
oneDNN's without end. Where two processes have a thread for each core, one of each is always off the processor, and the
others spin until it comes back: two trainings at once take not twice but up to thirty times as long. Therefore each
takes the cores for one step at a time (`turn`), as gang schedulers do (Ousterhout, "Scheduling Techniques for
Concurrent Systems", ICDCS 1982), and libgomp's spinning between steps is shortened (`SPINS`).
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import functools
import gc
import hashlib
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

# Set by each of several processes that train together, with its own number: what a process inherits is another one's.
WORKER = "SEGMODELS_WORKER"
# mallopt(3)
TRIM_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -4, -8
# Objects that are made before Python looks for cycles among them; its own 700 suits programs that make few, and much
# more than this gains nothing and keeps what is garbage, tensors among it, for longer.
COLLECT_AFTER = 10_000
# Turns of libgomp's waiting loop before a thread sleeps; its own 300,000 are 5 to 20 ms, in which it keeps a core from
# everybody else. Fewer than this cost a process that is alone more than they give others.
SPINS = 10_000
# Whoever waits looks this often; more often would take the processor from those it waits for.
_POLL_SECONDS = 0.002
# What is shorter is not passed on: caches are cold after a change.
_SHORTEST_TURN = 0.05
_LOOK_SECONDS = 0.25  # between looks at who holds the cores
CGROUPS = Path("/sys/fs/cgroup")
PROCESS = Path("/proc/self/cgroup")
_holding = threading.local()


def set_up_process(share: int = 1) -> None:
    """Do what every command does first, before it imports torch; `benchmarks/process.py` measures what it gains.

    See `keep_freed_memory`, `collect_less` and `limit_threads`.

    Args:
        share: Processes that train together on this machine.
    """
    keep_freed_memory()
    collect_less()
    limit_threads(share)


def keep_freed_memory() -> bool:
    """Have glibc keep what is freed, for processes that train or predict; whether it will.

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
    """Have Python look for cycles among its objects less often, and not at all when it ends.

    Importing what trains makes half a million objects that all stay. To go through them again and again, and once more
    when the process ends, takes a quarter to a third of the time of a process that only does that.
    """
    gc.set_threshold(COLLECT_AFTER, *gc.get_threshold()[1:])
    # Registered before everything else, and therefore the last to run.
    atexit.register(gc.freeze)


def available_cores(cgroups: Path = CGROUPS, process: Path = PROCESS) -> int:
    """Return the cores that this process may use: those of its affinity, no more than its cgroup's quota.

    Args:
        cgroups: Where the hierarchies of control groups are mounted.
        process: What tells the groups of this process.

    Returns:
        At least 1; a quota of two and a half cores counts as two.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([affinity, *(int(quota) for quota in _quotas(cgroups, process))]))


def limit_threads(share: int = 1) -> int:
    """Have torch and what else computes here use the available cores, and wait in a way that leaves them to others.

    The environment is believed: `OMP_NUM_THREADS`, `OMP_WAIT_POLICY` and `GOMP_SPINCOUNT` stay as they are. libgomp
    reads it when it is loaded, so this comes before torch; where torch is there already, its threads alone are set.

    Args:
        share: Processes that train together on this machine; each takes its part of the cores.

    Returns:
        The number of threads.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(SPINS))
    given = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if given.isdigit() and int(given) > 0:
        return int(given)
    threads = max(1, available_cores() // share)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    if "torch" in sys.modules:
        import torch

        torch.set_num_threads(threads)
    return threads


class Turn:
    """The cores that a process holds for a while."""

    def __init__(self, places: _Places | None = None, threads: int = 0) -> None:
        self._places, self._threads = places, threads
        self._held: list[int] = []
        self._since = 0.0

    def take(self) -> None:
        """Wait for the cores."""
        if self._places is not None:
            self._held = self._places.take(self._threads)
            self._since = time.monotonic()

    def give(self) -> None:
        """Let others have them."""
        for file in self._held:
            fcntl.flock(file, fcntl.LOCK_UN)
        self._held = []

    def pass_on(self) -> None:
        """Let those who wait have their turn, and wait for the next one; does nothing where this one began just now."""
        if time.monotonic() - self._since < _SHORTEST_TURN:
            return
        self.give()
        self.take()


@contextmanager
def turn(device: str = "cpu", threads: int | None = None) -> Iterator[Turn]:
    """Hold as many cores as this process has threads, for a prediction or until a step passes them on.

    Waits while other processes of this user hold them; whoever waits longest comes next. Where the holder was stopped
    (Ctrl-Z), or no folder can be had to share, goes on without. Nothing is held by a process that has ended. A turn
    within a turn of the same thread is the same one.

    Args:
        device: Where the work is done; a GPU's is not waited for.
        threads: How many; torch's number by default.

    Yields:
        What is held.
    """
    # Processes that train together wait for each other within a step, so each must have its own at any time.
    if device != "cpu" or WORKER in os.environ or getattr(_holding, "turn", False):
        yield Turn()
        return
    if threads is None:
        import torch

        threads = torch.get_num_threads()
    mine = Turn(_places(), threads)
    mine.take()
    _holding.turn = True
    try:
        yield mine
    finally:
        _holding.turn = False
        mine.give()


class _Places:
    """A lock for each core, and one for whoever is next."""

    def __init__(self, folder: Path, cores: int) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if folder.stat().st_uid != os.getuid():
            raise PermissionError(folder)
        self.next = _open(folder / "next")
        self.cores = [_open(folder / f"core-{number}") for number in range(cores)]

    def take(self, threads: int) -> list[int]:
        """Lock that many cores, and return what is locked; nothing where those who hold them do not run."""
        wanted = min(threads, len(self.cores))
        if not _until(lambda: [self.next] if _locked(self.next) else [], [self.next]):
            return []
        try:
            return _until(lambda: self._free(wanted), self.cores)
        finally:
            fcntl.flock(self.next, fcntl.LOCK_UN)

    def _free(self, wanted: int) -> list[int]:
        taken: list[int] = []
        for core in self.cores:
            if len(taken) < wanted and _locked(core):
                taken.append(core)
        if len(taken) < wanted:
            for core in taken:
                fcntl.flock(core, fcntl.LOCK_UN)
            return []
        return taken


def _until(attempt: Callable[[], list[int]], watched: list[int]) -> list[int]:
    """Repeat the attempt until it gives something; nothing where one who holds a watched lock is stopped."""
    look = time.monotonic() + _LOOK_SECONDS
    while True:
        taken = attempt()
        if taken:
            return taken
        if time.monotonic() > look:
            if any(_stopped(file) for file in watched):
                return []
            look = time.monotonic() + _LOOK_SECONDS
        time.sleep(_POLL_SECONDS)


def _locked(file: int) -> bool:
    """Lock a file and note who did, unless somebody else has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    os.pwrite(file, b"%-20d" % os.getpid(), 0)
    return True


def _stopped(file: int) -> bool:
    """Return whether the process that locked the file last stands still."""
    try:
        holder = int(os.pread(file, 20, 0) or b"0")
        state = Path(f"/proc/{holder}/stat").read_text().rpartition(")")[2].split()[0]
    except (OSError, ValueError):
        return False  # it has ended, and its lock with it
    return state in "Tt"


@functools.cache
def _places() -> _Places | None:
    """Return the locks of the cores that this process may use; None where there is no place for them."""
    if not hasattr(os, "sched_getaffinity"):
        return None
    cores = sorted(os.sched_getaffinity(0))
    name = hashlib.sha256(repr(cores).encode()).hexdigest()[:12]
    try:
        return _Places(Path(tempfile.gettempdir()) / f"segmodels-{os.getuid()}" / f"cores-{name}", available_cores())
    except OSError:
        return None


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _quotas(cgroups: Path, process: Path) -> Iterator[float]:
    """Yield the quotas, in cores, of this process's groups and of those that hold them."""
    try:
        lines = process.read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        group = Path(path.lstrip("/"))
        # In a container the group's own folder is mounted at the top, whatever its path is called outside.
        for above in {group, *group.parents, Path()}:
            for root in (cgroups, cgroups / "unified") if not controllers else (cgroups / controllers, cgroups / "cpu"):
                yield from _quota(root / above)


def _quota(folder: Path) -> Iterator[float]:
    try:
        quota, period = (folder / "cpu.max").read_text().split()
        if quota != "max":
            yield int(quota) / int(period)
    except (OSError, ValueError):
        pass
    try:
        quota = (folder / "cpu.cfs_quota_us").read_text().strip()
        if int(quota) > 0:
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())
    except (OSError, ValueError):
        pass
