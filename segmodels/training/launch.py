"""Start and watch training on several devices: one process each, under torch's own launcher.

    fit ──Job──▶ torch.distributed.run ──▶ python -m segmodels.training.worker JOB   (one process a device)
     ▲                                          │
     └────────── rows.jsonl, outcome.json ──────┘   written by the first process alone

A worker that dies takes the others with it; all are started again and go on from the resume state. So
the caller stays one process whatever the number of devices: tracking, locks and exit codes are as with one device.
`torchrun -m segmodels.training.worker JOB` on several machines does the same on all of them; the folders that the job
names must be the same storage on each.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segmodels.runtime import WORKER, available_cores
from segmodels.settings.schema import TrainSettings
from segmodels.training.state import TrainingError, TrainingInterrupted

# How often a run survives the death of a worker.
RESTARTS = 3
ALIVE = "alive"
_POLL_SECONDS = 0.2
ERRORS = {"TrainingError": TrainingError, "TrainingInterrupted": TrainingInterrupted, "ValueError": ValueError}


OnRow = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """What `training.fit` is called with, as text that another process reads.

    Attributes:
        leash: Seconds after which the processes save and end where nobody has written to the file `alive` beside the
            job; 0: never. For a launcher that may go away without a word.
    """

    data: str
    out: str
    architecture: str
    task: str
    settings: Mapping[str, Any]
    options: Mapping[str, Any]
    backbone: str | None
    name: str | None
    seed: int
    state: str
    signature: str
    counts: Mapping[str, Any] | None = None
    data_md5: str = ""
    leash: float = 0


Launcher = Callable[[Job, OnRow], dict[str, Any]]
"""Trains a job in processes that it starts, tells each row of the history, gives the fields of `training.Trained`."""


def processes(settings: TrainSettings) -> int:
    """Return how many processes train: one a device; on a CPU one, unless the settings name a number."""
    if settings.devices != "auto":
        return settings.devices
    import torch

    return max(1, torch.cuda.device_count()) if settings.accelerator != "cpu" else 1


def is_worker() -> bool:
    """Tell whether this process is one of several that a launcher started.

    The environment alone does not tell: its RANK and WORLD_SIZE may be left over from something else.
    """
    return os.environ.get(WORKER) == str(os.getpid())


def run(job: Job, count: int, on_row: OnRow) -> dict[str, Any]:
    """Train in `count` processes of this machine.

    Args:
        job: What to train.
        count: Number of processes.
        on_row: Told each row of the history, in this process.

    Returns:
        The fields of `training.Trained`.

    Raises:
        TrainingError: Training cannot go on; or its processes died, and again after each restart.
        TrainingInterrupted: This process was told to stop; the state is saved.
    """
    with tempfile.TemporaryDirectory(prefix="segmodels-") as folder:
        exchange = Path(folder)
        write(job, exchange)
        environment = {
            "OMP_NUM_THREADS": str(max(1, available_cores() // count)),
            "TORCH_CPP_LOG_LEVEL": "ERROR",  # else each process advises on its search for unused parameters
            **os.environ,
        }
        # Every attempt is a launcher of its own: a restart within one may find addresses of the dead in its store.
        command = [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"),
            *("--max-restarts=0", "-m", "segmodels.training.worker", str(exchange / "job.json")),
        ]
        told = 0
        for _ in range(1 + RESTARTS):
            with _forwarding(command, environment) as (group, stopped):
                while True:
                    ended = group.poll() is not None
                    for row in rows(exchange)[told:]:
                        on_row(row)
                        told += 1
                    if ended:
                        break
                    time.sleep(_POLL_SECONDS)
            if (exchange / "outcome.json").is_file() or stopped:
                break
        return outcome(exchange, job, group.returncode)


@contextmanager
def _forwarding(
    command: list[str], environment: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start the launcher, passes what stops this process on to it (and notes it), and leaves no process behind.

    Its session is its own: Ctrl-C reaches this process alone, and what it passes on is the same whatever stopped it.
    """
    stopped: list[int] = []

    def forward(number: int, frame: object) -> None:
        stopped.append(number)
        group.terminate()

    group = subprocess.Popen(command, env=dict(environment), start_new_session=True)
    previous = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)}
    try:
        yield group, stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if group.poll() is None:
            group.terminate()
            group.wait()


def write(job: Job, exchange: Path) -> None:
    """Write the job to the folder by which processes and their launcher know of each other."""
    (exchange / "job.json").write_text(json.dumps(dataclasses.asdict(job)))


@contextmanager
def holding(exchange: Path, seconds: float) -> Iterator[None]:
    """Write to the file `alive` every so many seconds while the body runs."""
    done = threading.Event()

    def hold() -> None:
        for number in itertools.count():
            (exchange / ALIVE).write_text(str(number))
            if done.wait(seconds):
                return

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    try:
        yield
    finally:
        done.set()
        holder.join()


def rows(exchange: Path) -> list[dict[str, Any]]:
    """Return the rows of the history that the processes have written."""
    path = exchange / "rows.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def outcome(exchange: Path, job: Job, code: int) -> dict[str, Any]:
    """Return the fields of `training.Trained`.

    Args:
        exchange: The folder of the processes.
        job: What they trained.
        code: How their launcher ended.

    Raises:
        TrainingError: Training cannot go on, or the processes died.
        TrainingInterrupted: They were told to stop, and have saved the state.
    """
    path = exchange / "outcome.json"
    if not path.is_file():
        raise TrainingError(
            f"{job.name or job.architecture}: the training processes died (exit code {code}) and did so again after "
            f"{RESTARTS} restarts; what they said stands above, and the same command goes on from the last state"
        )
    said: dict[str, Any] = json.loads(path.read_text())
    if "error" in said:
        raise ERRORS[said["error"]](said["message"])
    return said
