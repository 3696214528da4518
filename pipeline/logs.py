"""What the tasks of a run print, while they run and afterwards."""

from __future__ import annotations

import base64
import sys
import time
from urllib.parse import quote, urlencode

from components.errors import StepError
from pipeline import runs
from pipeline.cluster import Kubeflow
from pipeline.runs import Attempt, Run, Task
from pipeline.words import Words

POLL_SECONDS = 2.0


def show(
    kubeflow: Kubeflow,
    run_id: str,
    wanted: str | None = None,
    *,
    attempt: int | None = None,
    follow: bool = False,
    everything: bool = False,
) -> None:
    """Print what the tasks of a run said, each attempt under a headline.

    Args:
        kubeflow: The cluster.
        run_id: The run.
        wanted: One task; all by default.
        attempt: One of its attempts, from 1; all by default.
        follow: Goes on until the task, or the run, has ended.
        everything: Prints what Kubeflow's own programs say in the same pods, too.

    Raises:
        StepError: The run has no such task or attempt, or a log cannot be had.
    """
    told: dict[str, _Told] = {}
    missing: list[str] = []
    while True:
        run = runs.read(kubeflow, run_id)
        chosen = _chosen(run, wanted)
        ended = run.ended or (wanted is not None and _over(chosen[0]))
        missing = []
        for task in chosen:
            for one in task.attempts:
                if attempt not in (None, one.number):
                    continue
                text = read(kubeflow, run, one)
                if text is None:
                    missing.append(f"{task.name} (attempt {one.number})")
                    continue
                told.setdefault(one.node, _Told(_headline(task, one), everything)).tell(text, whole=ended or not follow)
        if ended or not follow:
            break
        time.sleep(POLL_SECONDS)
    if missing:
        raise StepError(
            f"run {run_id}: no log of {', '.join(missing)}; where the cluster archives none, it is gone with its pod"
        )
    if not told:
        raise StepError(f"run {run_id}: no log; {_why_none(run, wanted, attempt)}")


def last_words(kubeflow: Kubeflow, run: Run, task: Task, count: int = 10) -> list[str]:
    """Return the last lines that a task's last attempt printed; none where they cannot be had."""
    text = read(kubeflow, run, task.attempts[-1]) if task.attempts else None
    words = Words()
    return [line for line in (text or "").splitlines() if words.has(line)][-count:]


def read(kubeflow: Kubeflow, run: Run, attempt: Attempt) -> str | None:
    """Return what an attempt printed until now, or None where nobody has it.

    The user interface's server has it while the pod is there, and in the archive afterwards; the API has what was
    archived, and at its own address also what runs.
    """
    for source in (_shown, _archived, _by_the_api):
        try:
            text = source(kubeflow, run, attempt)
        except (StepError, OSError, ValueError):
            continue
        if text is not None:
            return text
    return None


def _shown(kubeflow: Kubeflow, run: Run, attempt: Attempt) -> str | None:
    """From the user interface's server."""
    asked = {"podname": attempt.pod, "runid": run.id, "podnamespace": kubeflow.namespace or "kubeflow"}
    if run.created:
        asked["createdat"] = f"{run.created:%Y-%m-%d}"
    with kubeflow.open(f"/k8s/pod/logs?{urlencode(asked)}") as answer:
        # A server without this address may answer with its page.
        return None if "html" in answer.headers.get("Content-Type", "") else _text(answer.read())


def _archived(kubeflow: Kubeflow, run: Run, attempt: Attempt) -> str | None:
    """From the store in which Argo keeps what pods printed."""
    node = quote(attempt.node, safe="")
    answer = kubeflow.get(f"/apis/v2beta1/runs/{quote(run.id, safe='')}/nodes/{node}/artifacts/main-logs:read")
    return _text(base64.b64decode(answer["data"])) if "data" in answer else None


def _by_the_api(kubeflow: Kubeflow, run: Run, attempt: Attempt) -> str | None:
    """From the API, at its own address: it knows what runs by its pod's name and what is archived by its node's id."""
    for name in (attempt.pod, attempt.node):
        with kubeflow.open(f"/apis/v1alpha1/runs/{quote(run.id, safe='')}/nodes/{quote(name, safe='')}/log") as answer:
            text = _text(answer.read())
        # With status 200 it says that it has none.
        if not text.startswith(('{"error_message"', "<")):
            return text
    return None


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


class _Told:
    """What was printed of an attempt's log, which grows."""

    def __init__(self, headline: str, everything: bool) -> None:
        self._headline: str | None = headline
        self._everything = everything
        self._words = Words()
        self._lines = 0

    def tell(self, text: str, *, whole: bool) -> None:
        """Print what is new; a last line without its end is left for the next time, unless this is the whole log."""
        if self._headline is not None:
            print(self._headline, flush=True)
            self._headline = None
        lines = text.splitlines()
        if lines and not whole and not text.endswith("\n"):
            lines.pop()
        for line in lines[self._lines :]:
            if self._words.has(line) or self._everything:
                sys.stdout.write(f"{line}\n")
        self._lines = max(self._lines, len(lines))
        sys.stdout.flush()


def _chosen(run: Run, wanted: str | None) -> list[Task]:
    chosen = [task for task in run.tasks if wanted in (None, task.name)]
    if not chosen:
        names = ", ".join(task.name for task in run.tasks) or "none yet"
        raise StepError(f"run {run.id} has no task {wanted}; its tasks: {names}")
    return chosen


def _over(task: Task) -> bool:
    return task.state in ("succeeded", "cached", "failed", "canceled", "skipped")


def _headline(task: Task, attempt: Attempt) -> str:
    of = f", attempt {attempt.number} of {len(task.attempts)}" if len(task.attempts) > 1 else ""
    reason = f": {attempt.reason}" if attempt.reason else ""
    return f"==> {task.name}{of} ({attempt.state}{reason})"


def _why_none(run: Run, wanted: str | None, attempt: int | None) -> str:
    if wanted is None:
        return run.reason or "none of its tasks has begun"
    (task,) = _chosen(run, wanted)
    if attempt is not None and task.attempts:
        return f"{wanted} has {len(task.attempts)} attempts, not {attempt}"
    states = {
        "cached": f"the result of {wanted} was cached, so it did not run",
        "skipped": f"{wanted} did not run, since a task before it did not succeed",
        "-": f"{wanted} has not begun",
    }
    return states.get(task.state) or f"{wanted} is {task.state}{f' ({task.reason})' if task.reason else ''}"
