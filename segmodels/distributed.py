"""Training on several devices: one process each, started and watched by torch's own launcher.

    fit ──Job──▶ torch.distributed.run ──▶ python -m segmodels.distributed JOB   (one process a device)
     ▲                                          │
     └────────── rows.jsonl, outcome.json ──────┘   written by the first process alone

A worker that dies takes the others with it; all are started again and go on from the resume state. So
the caller stays one process whatever the number of devices: tracking, locks and exit codes are as with one device.
`torchrun -m segmodels.distributed JOB` on several machines does the same on all of them; the folders that the job
names must be the same storage on each.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import logging
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

from segmodels.process import set_up_process
from segmodels.resume import TrainingError, TrainingInterrupted
from segmodels.settings import TrainSettings
from segmodels.threads import available_cores

# How often a run survives the death of a worker.
RESTARTS = 3
ALIVE = "alive"
_POLL_SECONDS = 0.2
# Set by a worker itself, with its own number: what a process inherits is another one's.
_WORKER = "SEGMODELS_WORKER"
_ERRORS = {"TrainingError": TrainingError, "TrainingInterrupted": TrainingInterrupted, "ValueError": ValueError}


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
    """How many processes train: one a device; on a CPU one, unless the settings name a number."""
    if settings.devices != "auto":
        return settings.devices
    import torch

    return max(1, torch.cuda.device_count()) if settings.accelerator != "cpu" else 1


def is_worker() -> bool:
    """Whether this process is one of several that a launcher started.

    The environment alone does not tell: its RANK and WORLD_SIZE may be left over from something else.
    """
    return os.environ.get(_WORKER) == str(os.getpid())


def run(job: Job, count: int, on_row: OnRow) -> dict[str, Any]:
    """Trains in `count` processes of this machine.

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
            *("--max-restarts=0", "-m", "segmodels.distributed", str(exchange / "job.json")),
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
    """Starts the launcher, passes what stops this process on to it (and notes it), and leaves no process behind.

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
    """Writes the job to the folder by which processes and their launcher know of each other."""
    (exchange / "job.json").write_text(json.dumps(dataclasses.asdict(job)))


@contextmanager
def holding(exchange: Path, seconds: float) -> Iterator[None]:
    """Writes to the file `alive` every so many seconds while the body runs."""
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
    """The rows of the history that the processes have written."""
    path = exchange / "rows.jsonl"
    whole = path.read_text().rpartition("\n")[0] if path.is_file() else ""
    return [json.loads(line) for line in whole.splitlines()]


def outcome(exchange: Path, job: Job, code: int) -> dict[str, Any]:
    """The fields of `training.Trained`.

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
            f"{RESTARTS} restarts; what they said stands above, and the same command goes on from the last epoch"
        )
    said: dict[str, Any] = json.loads(path.read_text())
    if "error" in said:
        raise _ERRORS[said["error"]](said["message"])
    return said


def main(arguments: list[str]) -> int:
    """One of the processes: trains, and where it is the first one says how it went."""
    os.environ[_WORKER] = str(os.getpid())
    path = Path(arguments[0])
    job = Job(**json.loads(path.read_text()))
    first = os.environ.get("RANK", "0") == "0"
    together = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if os.environ.get("OMP_NUM_THREADS") == "1" and together > 1:
        del os.environ["OMP_NUM_THREADS"]  # torchrun's own, where nobody said anything
    set_up_process(share=together)
    if job.leash:
        threading.Thread(target=_end_alone, args=(path.parent / ALIVE, job.leash), daemon=True).start()
    # The launcher ends its workers by SIGTERM also before training has put its own handler in place.
    try:
        said = _work(job, path.parent / "rows.jsonl" if first else None)
    except (TrainingError, TrainingInterrupted, ValueError) as error:
        said = {"error": type(error).__name__, "message": str(error)}
        if said["error"] not in _ERRORS:
            said["error"] = "ValueError"
    if first:
        temporary = path.parent / "outcome.json.part"
        temporary.write_text(json.dumps(said))
        temporary.replace(path.parent / "outcome.json")
    return 0


def _end_alone(alive: Path, seconds: float) -> None:
    """Tells this process to stop when a file has not changed for so long, by the clock of this machine."""
    known, since = "", time.monotonic()
    while time.monotonic() - since < seconds:
        time.sleep(min(5.0, seconds / 4))
        with contextlib.suppress(OSError):
            if (said := alive.read_text()) != known:
                known, since = said, time.monotonic()
    print(f"nobody has followed this training for {seconds:.0f} s: it saves its state and ends", flush=True)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:  # training has not begun: there is nothing to save
        os._exit(0)
    os.kill(os.getpid(), signal.SIGTERM)


def _work(job: Job, rows: Path | None) -> dict[str, Any]:
    from segmodels.data.frequencies import ClassCounts
    from segmodels.overrides import build
    from segmodels.training import fit

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

    def on_epoch(row: Mapping[str, Any]) -> None:
        if rows is not None:
            with rows.open("a") as file:
                file.write(json.dumps(dict(row)) + "\n")

    trained = fit(
        Path(job.data),
        Path(job.out),
        architecture=job.architecture,
        settings=build(TrainSettings, job.settings),
        options=job.options,
        backbone=job.backbone,
        name=job.name,
        seed=job.seed,
        state=Path(job.state),
        signature=job.signature,
        counts=ClassCounts(**{k: tuple(v) for k, v in job.counts.items()}) if job.counts is not None else None,
        data_md5=job.data_md5,
        on_epoch=on_epoch,
    )
    return {**dataclasses.asdict(trained), "folder": str(trained.folder)}


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
