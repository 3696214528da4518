"""A run's tasks as a table, or followed to its end."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from components.errors import StepError
from pipeline import logs, runs
from pipeline.cluster import Kubeflow
from pipeline.runs import Run, Task

POLL_SECONDS = 5.0
COLORS = {"succeeded": 32, "cached": 32, "failed": 31, "canceled": 31, "running": 36, "retrying": 33, "pending": 33}


def show(kubeflow: Kubeflow, run_id: str | None, *, as_json: bool = False) -> None:
    """Print a run's tasks, or the latest runs where none is named."""
    kubeflow.probe()
    if run_id is not None:
        run = runs.read(kubeflow, run_id)
        print(_json(run) if as_json else described(run, kubeflow.page(run_id), color=sys.stdout.isatty()))
        return
    latest = runs.listed(kubeflow)
    if as_json:
        print(json.dumps([json.loads(_json(run)) for run in latest], indent=2))
    elif not latest:
        print("no runs yet")
    else:
        print("\n".join(_columns([("run", "state", "started", "name"), *map(_listed, latest)])))


def watch(kubeflow: Kubeflow, run_id: str) -> None:
    """Follow a run to its end: a live table in a terminal, a line for each change elsewhere.

    Raises:
        StepError: The run did not succeed; names the tasks that failed, after their last lines.
    """
    kubeflow.probe()
    told: dict[str, tuple[str, int, str]] = {}
    drawn = 0
    while True:
        run = runs.read(kubeflow, run_id)
        if sys.stdout.isatty():
            text = described(run, kubeflow.page(run_id), color=True)
            sys.stdout.write((f"\033[{drawn}F\033[J" if drawn else "") + text + "\n")
            drawn = text.count("\n") + 1
        else:
            for task in run.tasks:
                now = (task.state, len(task.attempts), task.reason)
                if task.state not in ("-", "starting") and told.get(task.name) != now:
                    print(_line(task), flush=True)
                    told[task.name] = now
        if run.ended:
            break
        time.sleep(POLL_SECONDS)
    if run.state != "SUCCEEDED":
        raise StepError(_end(kubeflow, run))
    print(f"run {run_id} succeeded; {kubeflow.page(run_id)}")


def described(run: Run, page: str, *, color: bool = False) -> str:
    """Return a run as a table of its tasks."""
    rows = [("task", "state", "attempt", "time", "")]
    rows += [(t.name, t.state, str(len(t.attempts) or ""), _time(t.elapsed), t.reason) for t in run.tasks]
    lines = _columns(rows)
    if color:
        for number, task in enumerate(run.tasks, 1):
            code = COLORS.get(task.state)
            if code:
                at = lines[number].index(task.state, len(task.name))
                end = at + len(task.state)
                lines[number] = f"{lines[number][:at]}\033[{code}m{task.state}\033[0m{lines[number][end:]}"
    reason = f" ({run.reason})" if run.reason else ""
    return "\n".join([*lines, f"{run.name}: {run.state}{reason}; {page}"])


def _end(kubeflow: Kubeflow, run: Run) -> str:
    """Print the last lines of the tasks that failed; give the sentence that ends the watching."""
    failed = [task for task in run.tasks if task.state == "failed"]
    for task in failed:
        lines = logs.last_words(kubeflow, run, task)
        if lines:
            print(f"the last lines of {task.name}:")
            print("\n".join(f"    {line}" for line in lines), flush=True)
    if not failed:
        reason = f": {run.reason}" if run.reason else ""
        return f"run {run.id} ended as {run.state}{reason}; {kubeflow.page(run.id)}"
    named = ", ".join(_failed(task) for task in failed)
    more = f"python -m pipeline logs {run.id} {failed[0].name}"
    return f"run {run.id} ended as {run.state} in {named}; all that it said: {more}"


def _failed(task: Task) -> str:
    times = f" after {len(task.attempts)} attempts" if len(task.attempts) > 1 else ""
    return f"{task.name}{times}{f' ({task.reason})' if task.reason else ''}"


def _line(task: Task) -> str:
    number = f", attempt {len(task.attempts)}" if len(task.attempts) > 1 else ""
    time_ = f" ({_time(task.elapsed)})" if task.elapsed else ""
    return f"{task.name}: {task.state}{number}{time_}{f': {task.reason}' if task.reason else ''}"


def _listed(run: Run) -> tuple[str, str, str, str]:
    ago = f"{_time(datetime.now(UTC) - run.created)} ago" if run.created else ""
    return run.id, run.state, ago, run.name


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with the cells below each other; nothing is cut, however narrow the window is."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _time(elapsed: timedelta | None) -> str:
    return str(timedelta(seconds=round(elapsed.total_seconds()))) if elapsed else ""


def _json(run: Run) -> str:
    """Return the run with its tasks and attempts, for programs."""
    content = asdict(run)
    for task, described_ in zip(run.tasks, content["tasks"], strict=True):
        described_["seconds"] = round(task.elapsed.total_seconds()) if task.elapsed else None
    return json.dumps(content, indent=2, default=lambda when: when.isoformat())
