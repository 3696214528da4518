"""The pipeline on this machine: `kfp.local`, one process for each task, no cluster and no container."""

from __future__ import annotations

import os
import re
import sys
import warnings
from contextlib import redirect_stdout
from dataclasses import dataclass
from datetime import datetime
from io import TextIOBase
from pathlib import Path
from typing import TextIO

from components.__main__ import DATA, EVALUATION, MODELS, REGISTERED, REPORTS, VALIDATION
from components.errors import StepError
from components.params import Params
from components.task import arms, task_name
from pipeline.words import Words
from segmodels.files import replaced

OUT = Path("outputs-local")
LATEST = "latest"


@dataclass(frozen=True)
class LocalRun:
    """A finished run.

    Attributes:
        folder: Everything that its tasks wrote.
        latest: The same, as links in the layout of `dvc repro`.
        log: What its tasks and kfp printed.
    """

    folder: Path
    latest: Path
    log: Path


def run(params: Params, out: Path = OUT) -> LocalRun:
    """Run the pipeline of these settings, task by task.

    Args:
        params: All settings.
        out: Each run gets a folder of its own in it.

    Raises:
        StepError: A task failed; the message is that task's own.
    """
    from kfp import local

    from pipeline.dag import build

    pipeline = build(params)
    name = f"{datetime.now():%Y%m%d-%H%M%S}"
    folder = out / name
    folder.mkdir(parents=True)
    log = folder / "log.txt"
    # Tasks are processes that inherit the environment: their MLflow runs name this one.
    os.environ |= {"KFP_RUN_ID": f"local-{name}", "PYTHONUNBUFFERED": "1"}
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=str(folder))
    with log.open("w") as file, warnings.catch_warnings():
        # kfp warns that the image is not used and that resources have no effect here.
        warnings.filterwarnings("ignore", module=r"kfp\.local")
        console = Console(sys.stdout, file)
        try:
            with redirect_stdout(console):
                pipeline()
        except RuntimeError as error:
            said = console.error or _plain(str(error))
            raise StepError(f"{said} (task {console.failed}; {log} has all that was printed)") from None
    return LocalRun(folder, _link(params, folder, out / LATEST), log)


class Console(TextIOBase):
    """What kfp prints goes to the log; the terminal gets the tasks' names and what their steps say.

    Attributes:
        error: The sentence with which the first step failed, without `error:`, or the last line that it printed.
        failed: The task that said it.
    """

    _LOGGED = re.compile(r"\d\d:\d\d:\d\d\.\d{3} - [A-Z]+ - (.*)")

    def __init__(self, terminal: TextIO, log: TextIO) -> None:
        self.error, self.failed = "", ""
        self._terminal, self._log = terminal, log
        self._line, self._last, self._task = "", "", ""
        self._streams, self._words = False, Words()

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._log.write(_plain(text))
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._see(_plain(line))
        return len(text)

    def flush(self) -> None:
        self._log.flush()
        self._terminal.flush()

    def _see(self, line: str) -> None:
        logged = self._LOGGED.match(line)
        if logged:
            started = re.match(r"Executing task '(.*)'", logged[1])
            if started:
                self._task = started[1]
                self._say(self._task)
            if logged[1].endswith("finished with status FAILURE") and not self.error:
                self.error, self.failed = self._last, self._task
            self._streams = logged[1].startswith("Streamed logs")
        elif self._streams and line.strip():
            self._step(line.removeprefix("    "))

    def _step(self, line: str) -> None:
        """Print a line of a task: kfp's own are left out."""
        if self._words.has(line):
            if line.startswith("error: ") and not self.error:
                self.error, self.failed = line.removeprefix("error: "), self._task
            self._last = line
            self._say(f"    {line}")

    def _say(self, line: str) -> None:
        self._terminal.write(line + "\n")
        self._terminal.flush()


def _link(params: Params, folder: Path, latest: Path) -> Path:
    """Links to the run's artifacts, laid out as `dvc repro` lays them out."""
    artifacts = {
        DATA: ("download", "data"),
        VALIDATION: ("validate", "validation"),
        REGISTERED: ("register", "registered"),
        REPORTS / "report.html": ("report", "page"),
        REPORTS / "leaderboard.md": ("report", "leaderboard"),
    }
    for key, arm in arms(params.models).items():
        artifacts[MODELS / key] = (task_name("train", arm), "model")
        artifacts[EVALUATION / key] = (task_name("evaluate", arm), "evaluation")
    with replaced(latest) as part:
        for path, (task, artifact) in artifacts.items():
            link = part / path
            link.parent.mkdir(parents=True, exist_ok=True)
            (target,) = folder.glob(f"*/{task}/{artifact}")
            link.symlink_to(os.path.relpath(target, (latest / path).parent))
    return latest


def _plain(text: str) -> str:
    """Return the text without colours."""
    return re.sub(r"\033\[\d*m", "", text)
