"""Kubeflow Pipelines on a cluster: connecting, watching, stopping and scheduling runs.

Whatever the cluster or the network says is told as one sentence.
"""

from __future__ import annotations

import json
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from components.errors import StepError

if TYPE_CHECKING:
    from kfp import Client
    from rich.table import Table

PROBE_SECONDS = 5
POLL_SECONDS = 5.0
# States after which nothing changes any more.
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
COLORS = {"SUCCEEDED": "green", "FAILED": "red", "CANCELED": "red", "RUNNING": "cyan"}
# Tasks that the cluster adds around the pipeline's own.
_INNER = ("-driver", "-executor")


@dataclass(frozen=True)
class Kubeflow:
    """An installation of Kubeflow Pipelines.

    Attributes:
        host: Its address.
        namespace: Where runs belong in a multi-user installation.
        token: Bearer token.
    """

    host: str
    namespace: str | None = None
    token: str | None = None

    @classmethod
    def at(cls, host: str, namespace: str | None = None, token: str | None = None) -> Kubeflow:
        """The installation behind an address, `https://` where it names no scheme.

        Raises:
            StepError: The address is empty.
        """
        if not host:
            raise StepError("no cluster: give --host http://… or set KF_PIPELINES_ENDPOINT; `run` needs none")
        return cls((host if "://" in host else f"https://{host}").rstrip("/"), namespace, token)

    @contextmanager
    def client(self) -> Iterator[Client]:
        """kfp's client, once something answers; what goes wrong in the body is one sentence.

        Raises:
            StepError: There is no cluster, or it refuses.
        """
        self._probe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # which versions of a cluster kfp's client works with
            import kfp
            from kfp_server_api.exceptions import ApiException
            from urllib3.exceptions import HTTPError

            try:
                yield kfp.Client(host=self.host, namespace=self.namespace or "kubeflow", existing_token=self.token)
            except ApiException as error:
                raise StepError(f"{self.host}: refuses (HTTP {error.status}{_message(error.body)})") from None
            except (HTTPError, OSError, ValueError) as error:
                raise StepError(f"{self.host}: {' '.join(str(error).split())}") from None

    def page(self, run_id: str) -> str:
        """The address of a run in the user interface."""
        return f"{self.host}/#/runs/details/{run_id}"

    def request(self, path: str) -> Any:
        """Opens a path of the API that kfp's client does not have."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        return urllib.request.urlopen(urllib.request.Request(f"{self.host}{path}", headers=headers), timeout=60)

    def _probe(self) -> None:
        """Finds out within seconds whether Kubeflow answers: its client would try for minutes."""
        headers = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        try:
            request = urllib.request.Request(f"{self.host}/apis/v2beta1/healthz", headers=headers)
            with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
                json.load(answer)
        except urllib.error.HTTPError as error:
            hint = "; give a token with --token-file" if error.code in (401, 403) else ""
            raise StepError(f"{self.host}: Kubeflow Pipelines refuses (HTTP {error.code}){hint}") from None
        except (OSError, urllib.error.URLError) as error:
            reason = getattr(error, "reason", error)
            raise StepError(
                f"{self.host}: no Kubeflow Pipelines answers there ({reason}); check --host, or run it without a "
                "cluster: `python -m pipeline run`"
            ) from None
        except ValueError:
            raise StepError(
                f"{self.host}: what answers is not Kubeflow Pipelines, perhaps a login page; give a token with "
                "--token-file"
            ) from None


@dataclass(frozen=True)
class Task:
    """A task of a run: its name in the pipeline, its state and how long it took or has taken."""

    name: str
    state: str
    elapsed: timedelta | None
    error: str
    pods: tuple[str, ...]


def tasks(run: Any) -> list[Task]:
    """The tasks of a run, in the order in which they began."""
    found: dict[str, list[Any]] = {}
    details = (run.run_details.task_details if run.run_details else None) or []
    for detail in details:
        name = detail.display_name or ""
        for suffix in _INNER:
            name = name.removesuffix(suffix)
        if name and name not in ("root", "steps"):
            found.setdefault(name, []).append(detail)
    made = []
    for name, parts in found.items():
        # Retries and the driver before it count as one task, and the last word is the latest.
        last = max(parts, key=lambda part: part.start_time or part.create_time or _EARLY)
        started = min((part.start_time for part in parts if part.start_time), default=None)
        pods = [child.pod_name for part in parts for child in part.child_tasks or [] if child.pod_name]
        pods += [part.pod_name for part in parts if part.pod_name]
        ended = last.end_time if str(last.state) in ENDED else None
        elapsed = (ended or datetime.now(UTC)) - started if started else None
        error = last.error.message if last.error and last.error.message else ""
        made.append((started or _LATE, Task(name, str(last.state), elapsed, error, tuple(dict.fromkeys(pods)))))
    return [task for _, task in sorted(made, key=lambda pair: pair[0])]


_EARLY, _LATE = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)


def status(kubeflow: Kubeflow, run_id: str | None) -> None:
    """Prints a run's tasks, or the latest runs where none is named."""
    from rich.console import Console

    with kubeflow.client() as client:
        if run_id is None:
            listed = client.list_runs(page_size=10, sort_by="created_at desc", namespace=kubeflow.namespace)
            rows = [(r.run_id, r.display_name, str(r.state), _ago(r.created_at)) for r in listed.runs or []]
            Console(highlight=False).print(_table(("run", "name", "state", "started"), rows) if rows else "no runs yet")
            return
        run = client.get_run(run_id)
        Console(highlight=False).print(_state_table(run))
        print(f"{run.display_name}: {run.state}; {kubeflow.page(run_id)}")


def watch(kubeflow: Kubeflow, run_id: str) -> None:
    """Follows a run to its end: a live table in a terminal, a line for each change elsewhere.

    Raises:
        StepError: The run did not succeed; names the tasks that failed.
    """
    from rich.console import Console
    from rich.live import Live

    console = Console(highlight=False)
    with kubeflow.client() as client:
        run = client.get_run(run_id)
        if sys.stdout.isatty():
            with Live(_state_table(run), console=console, auto_refresh=False) as live:
                while str(run.state) not in ENDED:
                    time.sleep(POLL_SECONDS)
                    run = client.get_run(run_id)
                    live.update(_state_table(run), refresh=True)
        else:
            told: dict[str, str] = {}
            while True:
                for task in tasks(run):
                    if told.get(task.name) != task.state:
                        print(f"{task.name}: {task.state.lower()}{_words(task.elapsed)}", flush=True)
                        told[task.name] = task.state
                if str(run.state) in ENDED:
                    break
                time.sleep(POLL_SECONDS)
                run = client.get_run(run_id)
        if str(run.state) != "SUCCEEDED":
            failed = [f"{t.name}{f' ({t.error})' if t.error else ''}" for t in tasks(run) if t.state == "FAILED"]
            reason = f" in {', '.join(failed)}" if failed else ""
            raise StepError(
                f"run {run_id} ended as {run.state}{reason}; what its tasks said: python -m pipeline logs {run_id}"
            )
    print(f"run {run_id} succeeded; {kubeflow.page(run_id)}")


def logs(kubeflow: Kubeflow, run_id: str, wanted: str | None) -> None:
    """Prints what the tasks of a run said; of one task where `wanted` names it.

    Raises:
        StepError: The run has no such task, or no log is left.
    """
    with kubeflow.client() as client:
        found = tasks(client.get_run(run_id))
    chosen = [task for task in found if wanted in (None, task.name)]
    if not chosen:
        names = ", ".join(task.name for task in found) or "none yet"
        raise StepError(f"run {run_id} has no task {wanted}; its tasks: {names}")
    for task in chosen:
        for pod in task.pods:
            print(f"==> {task.name} ({pod})", flush=True)
            path = f"/apis/v1alpha1/runs/{urllib.parse.quote(run_id)}/nodes/{urllib.parse.quote(pod)}/log"
            try:
                with kubeflow.request(path) as answer:
                    for line in answer:
                        sys.stdout.write(line.decode(errors="replace"))
                sys.stdout.flush()
            except (OSError, urllib.error.URLError) as error:
                print(
                    f"no log is left of {pod} ({error}); a cluster that keeps them elsewhere has it under the label "
                    f"pipeline/runid={run_id}",
                    file=sys.stderr,
                )


def cancel(kubeflow: Kubeflow, run_id: str) -> None:
    """Stops a run. Trainings save their state and go on when the same run is submitted again."""
    with kubeflow.client() as client:
        state = str(client.get_run(run_id).state)
        if state in ENDED:
            print(f"run {run_id} has ended already ({state})")
            return
        client.terminate_run(run_id)
    print(f"run {run_id} is being stopped; `python -m pipeline status {run_id}` follows it")


def schedule(kubeflow: Kubeflow, package: str, *, name: str, experiment: str, cron: str, enabled: bool) -> str:
    """Makes a run recur; one of the same name is replaced.

    Args:
        kubeflow: The cluster.
        package: Compiled pipeline.
        name: Of the recurring run.
        experiment: Made where it does not exist.
        cron: Six fields, seconds first, as Kubeflow has them; five get a 0 in front.
        enabled: Whether it begins at once.

    Returns:
        Its id.

    Raises:
        StepError: The expression has another number of fields.
    """
    fields = cron.split()
    if len(fields) not in (5, 6):
        raise StepError(f"--cron {cron!r}: five fields (minute hour day month weekday), or six with seconds in front")
    with kubeflow.client() as client:
        made = client.create_experiment(experiment, namespace=kubeflow.namespace)
        before = client.list_recurring_runs(page_size=100, experiment_id=made.experiment_id).recurring_runs or []
        recurring = client.create_recurring_run(
            made.experiment_id,
            name,
            cron_expression=" ".join(fields if len(fields) == 6 else ["0", *fields]),
            pipeline_package_path=package,
            max_concurrency=1,
            no_catchup=True,
            enabled=enabled,
        )
        # The new one stands before the old ones go: a failure in between leaves two, not none.
        for other in before:
            if other.display_name == name:
                client.delete_recurring_run(other.recurring_run_id)
    return str(recurring.recurring_run_id)


def _state_table(run: Any) -> Table:
    rows = [
        (task.name, f"[{COLORS.get(task.state, 'default')}]{task.state.lower()}[/]", _words(task.elapsed).strip(" ()"))
        for task in tasks(run)
    ]
    return _table(("task", "state", "time"), rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0))
    for heading in headings:
        table.add_column(heading, no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _words(elapsed: timedelta | None) -> str:
    return f" ({timedelta(seconds=round(elapsed.total_seconds()))})" if elapsed else ""


def _ago(moment: datetime | None) -> str:
    return f"{timedelta(seconds=round((datetime.now(UTC) - moment).total_seconds()))} ago" if moment else ""


def _message(body: object) -> str:
    """The sentence in an answer of Kubeflow, if there is one."""
    try:
        content = json.loads(str(body))
    except ValueError:
        return ""
    text = content.get("message") or content.get("error") if isinstance(content, dict) else None
    return f": {text}" if text else ""
