"""One of several processes that train together: `python -m segmodels.training.worker JOB`; see `launch`."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segmodels.files import write_text
from segmodels.runtime import WORKER, set_up_process
from segmodels.settings.parse import build
from segmodels.settings.schema import TrainSettings
from segmodels.training.launch import ALIVE, ERRORS, Job
from segmodels.training.state import TrainingError, TrainingInterrupted


def main(arguments: list[str]) -> int:
    """Return one of the processes: trains, and where it is the first one says how it went."""
    os.environ[WORKER] = str(os.getpid())
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
        if said["error"] not in ERRORS:
            said["error"] = "ValueError"
    if first:
        write_text(path.parent / "outcome.json", json.dumps(said))
    return 0


def _end_alone(alive: Path, seconds: float) -> None:
    """Tell this process to stop when a file has not changed for so long, by the clock of this machine."""
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
    # These bring torch and numpy, which read the environment that `main` has set.
    from segmodels.data.frequencies import ClassCounts
    from segmodels.training.fit import fit

    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)

    def on_epoch(row: Mapping[str, Any]) -> None:
        if rows is not None:
            with rows.open("a") as file:
                file.write(json.dumps(dict(row)) + "\n")

    trained = fit(
        Path(job.data),
        Path(job.out),
        architecture=job.architecture,
        task=job.task,
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
