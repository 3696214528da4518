"""The tasks of a run, read from what Kubeflow answers: their states, their attempts and the pods of these.

Kubeflow runs a pipeline as a workflow of Argo, in which a task is five nodes or more: `X-driver`, `X`, and below that
`executor` with a pod for each attempt; around each there may be one more that tries it again. A node's id is a hash of
its full name, which leads down to it from the workflow. The API's details of a run give each node's last name and the
ids of those below it. Argo's own record, which the older API gives, has everything, also why.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from components.errors import StepError
from pipeline.cluster import Kubeflow

# States of a run after which nothing changes any more.
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")
EXECUTOR, DRIVER = "executor", "-driver"
# Argo's longest prefix of a pod's name (workflow/util/pod_name.go).
LONGEST_PREFIX = 242


@dataclass(frozen=True)
class Attempt:
    """One pod of a task.

    Attributes:
        number: From 1.
        state: `pending`, `running`, `succeeded` or `failed`.
        node: Its id in the workflow.
        pod: Its name.
        started: When it began.
        ended: When it ended; None while it lasts.
        reason: Why it waits or failed; empty where Kubeflow does not say.
    """

    number: int
    state: str
    node: str
    pod: str
    started: datetime | None
    ended: datetime | None
    reason: str = ""


@dataclass(frozen=True)
class Task:
    """A task of the pipeline in a run.

    Attributes:
        name: As in the pipeline, `train-unet`.
        state: `-` before it begins, `starting`, `pending`, `running`, `retrying` between two attempts, `succeeded`,
            `cached`, `failed`, `canceled`, or `skipped` since one before it failed.
        started: When it began.
        ended: When it ended; None while it lasts.
        attempts: Its pods, the first one first.
        reason: Why it waits or failed; empty where Kubeflow does not say.
    """

    name: str
    state: str
    started: datetime | None = None
    ended: datetime | None = None
    attempts: tuple[Attempt, ...] = ()
    reason: str = ""

    @property
    def elapsed(self) -> timedelta | None:
        """How long it took, or has taken."""
        return (self.ended or datetime.now(UTC)) - self.started if self.started else None


@dataclass(frozen=True)
class Run:
    """A run with its tasks, in the order in which they depend on each other.

    Attributes:
        id: Its id.
        name: Its name.
        state: As Kubeflow has it, `CANCELED` for one that a person stopped.
        created: When it was submitted.
        tasks: Its tasks.
        reason: Why it failed where none of its tasks did; empty otherwise.
    """

    id: str
    name: str
    state: str
    created: datetime | None
    tasks: tuple[Task, ...] = ()
    reason: str = ""

    @property
    def ended(self) -> bool:
        return self.state in ENDED


@dataclass(frozen=True)
class Node:
    """A node of the workflow: its full name, Argo's phase, and why."""

    name: str
    phase: str
    started: datetime | None
    ended: datetime | None
    message: str = ""


def read(kubeflow: Kubeflow, run_id: str) -> Run:
    """Return a run as it is now.

    Raises:
        StepError: There is no such run, or the cluster does not answer.
    """
    quoted = quote(run_id, safe="")
    described = kubeflow.get(f"/apis/v2beta1/runs/{quoted}")
    try:
        older = kubeflow.get(f"/apis/v1beta1/runs/{quoted}")
        workflow = json.loads((older.get("pipeline_runtime") or {}).get("workflow_manifest") or "{}")
    except (StepError, ValueError, AttributeError):  # a release without it
        workflow = {}
    return parse(described, workflow)


def listed(kubeflow: Kubeflow, count: int = 10) -> list[Run]:
    """Return the latest runs, without their tasks."""
    place = f"&namespace={quote(kubeflow.namespace)}" if kubeflow.namespace else ""
    answer = kubeflow.get(f"/apis/v2beta1/runs?page_size={count}&sort_by=created_at%20desc{place}")
    return [_run(described, ()) for described in answer.get("runs") or []]


def parse(described: Mapping[str, Any], workflow: Mapping[str, Any] | None = None) -> Run:
    """Return a run from the API's answers.

    Args:
        described: `GET /apis/v2beta1/runs/ID`.
        workflow: Argo's workflow, where there is one.
    """
    details = (described.get("run_details") or {}).get("task_details") or []
    name, nodes = _of_workflow(workflow) if workflow and workflow.get("status") else _of_details(details)
    pipeline = Pipeline.of(described)
    canceled = _canceled(described)
    by_name = {task.name: task for task in _tasks(name, nodes, pipeline, canceled)}
    order = [*pipeline.order, *(other for other in by_name if other not in pipeline.order)]
    tasks = tuple(by_name.get(name, Task(name, "-")) for name in order)
    drivers = [node for full, node in nodes.items() if full.endswith(DRIVER) and node.phase in ("FAILED", "ERROR")]
    reason = ""
    if drivers and not any(task.state == "failed" for task in tasks):
        said = f": {_words(drivers[0].message)}" if drivers[0].message else ""
        reason = f"Kubeflow's {_last(drivers[0].name)} failed{said}"
    return _run(described, tasks, reason)


def _run(described: Mapping[str, Any], tasks: tuple[Task, ...], reason: str = "") -> Run:
    state = "CANCELED" if _canceled(described) else str(described.get("state") or "PENDING")
    created = _moment(described.get("created_at"))
    return Run(str(described["run_id"]), str(described.get("display_name", "")), state, created, tasks, reason)


def _canceled(described: Mapping[str, Any]) -> bool:
    """Tell whether a person stopped it: Kubeflow 2.17 calls it failed then."""
    past = {moment.get("state") for moment in described.get("state_history") or ()}
    return "CANCELING" in past and described.get("state") in ("FAILED", "CANCELED")


@dataclass(frozen=True)
class Pipeline:
    """What the pipeline's specification says of its tasks.

    Attributes:
        order: Their names, each after those that it waits for.
        groups: Tasks that only hold others.
        templates: Name -> template of its pods.
    """

    order: tuple[str, ...]
    groups: frozenset[str]
    templates: Mapping[str, str]

    @classmethod
    def of(cls, described: Mapping[str, Any]) -> Pipeline:
        """Return that of a run; of one that names its pipeline by reference alone it says nothing."""
        sent = described.get("pipeline_spec") or {}
        spec = sent.get("pipeline_spec", sent)
        platform = (sent.get("platform_spec") or {}).get("platforms", {}).get("kubernetes", {})
        pods = platform.get("deploymentSpec", platform.get("deployment_spec", {})).get("executors", {})
        components = spec.get("components", {})
        order: list[str] = []
        groups: set[str] = set()
        templates: dict[str, str] = {}

        def add(dag: Mapping[str, Any]) -> None:
            tasks = dict(dag.get("tasks", {}))
            while tasks:
                ready = [name for name, task in tasks.items() if not set(task.get("dependentTasks", ())) & set(tasks)]
                for name in ready or list(tasks):
                    task = tasks.pop(name)
                    component = components.get(task.get("componentRef", {}).get("name"), {})
                    if "dag" in component:
                        groups.add(name)
                        add(component["dag"])
                    else:
                        order.append(name)
                        templates[name] = _template(task, pods.get(component.get("executorLabel"), {}))

        add(spec.get("root", {}).get("dag", {}))
        return cls(tuple(order), frozenset(groups), templates)


def _template(task: Mapping[str, Any], pod: Mapping[str, Any]) -> str:
    """Return the name that Kubeflow's compiler gives a task's template (argocompiler/container.go, 2.17.0)."""
    name = "retry-system-container-impl" if "retryPolicy" in task else "system-container-impl"
    if "podMetadata" in pod:
        counts = [str(len(pod["podMetadata"].get(kind) or {})) for kind in ("annotations", "labels")]
        name = f"metadata-{'-'.join(counts)}-{name}"
    return name


def _tasks(workflow: str, nodes: Mapping[str, Node], pipeline: Pipeline, canceled: bool) -> Iterator[Task]:
    for full, driver in nodes.items():
        if not full.endswith(DRIVER):
            continue
        name = _last(full).removesuffix(DRIVER)
        path = full.removesuffix(DRIVER)
        holds_others = any(other.startswith((f"{path}.", f"{path}(")) and other.endswith(DRIVER) for other in nodes)
        if name == "root" or name in pipeline.groups or holds_others:
            continue
        node = nodes.get(path)
        if node is None:
            failed = driver.phase in ("FAILED", "ERROR")
            state = "failed" if failed else "starting"
            reason = f"its driver: {_words(driver.message)}" if failed and driver.message else ""
            yield Task(name, state, driver.started, driver.ended if failed else None, (), reason)
            continue
        attempts = tuple(_attempts(workflow, path, nodes, pipeline.templates.get(name, "")))
        state = _state(node, attempts, canceled)
        last = attempts[-1] if attempts else None
        reason = last.reason if last and state in ("pending", "retrying", "failed") else ""
        if state == "failed" and not reason:
            reason = _words(node.message)
        elif state == "skipped":
            reason = "a task before it did not succeed"
        started = driver.started or node.started
        ended = node.ended if node.phase not in ("RUNNING", "PENDING") else None
        if state == "skipped":
            started = ended = None
        yield Task(name, state, started, ended, attempts, reason)


def _attempts(workflow: str, path: str, nodes: Mapping[str, Node], template: str) -> Iterator[Attempt]:
    """Yield the pods of a task: `…X.executor`, or `…X(0).executor(1)` where each may be tried again."""
    pods = [
        node
        for name, node in nodes.items()
        if re.fullmatch(rf"{re.escape(path)}(\(\d+\))?\.{EXECUTOR}(\(\d+\))?", name)
        and f"{name}(0)" not in nodes
        and node.phase not in ("SKIPPED", "OMITTED")
    ]
    numbered = sorted(pods, key=lambda node: [int(number) for number in re.findall(r"\((\d+)\)", node.name)])
    for number, node in enumerate(numbered, 1):
        state = {"ERROR": "failed", "CANCELED": "failed"}.get(node.phase, node.phase.lower())
        prefix = (f"{workflow}-{template}" if template else workflow)[:LONGEST_PREFIX]
        pod = f"{prefix}-{_hash(node.name)}"
        ended = node.ended if state in ("succeeded", "failed") else None
        reason = _words(node.message) if state in ("pending", "failed") else ""
        yield Attempt(number, state, node_id(workflow, node.name), pod, node.started, ended, reason)


def _state(node: Node, attempts: Sequence[Attempt], canceled: bool) -> str:
    if node.phase in ("OMITTED", "SKIPPED", ""):
        return "skipped"
    if node.phase == "SUCCEEDED":
        return "succeeded" if attempts else "cached"
    if node.phase in ("FAILED", "ERROR", "CANCELED"):
        return "canceled" if canceled else "failed"
    if not attempts:
        return "starting"
    return {"failed": "retrying", "succeeded": "running"}.get(attempts[-1].state, attempts[-1].state)


def _of_workflow(workflow: Mapping[str, Any]) -> tuple[str, dict[str, Node]]:
    """Return the workflow's name, and its nodes by their full names."""
    nodes = {}
    for one in workflow["status"].get("nodes", {}).values():
        phase = str(one.get("phase", "")).upper()
        started, ended = _moment(one.get("startedAt")), _moment(one.get("finishedAt"))
        nodes[one["name"]] = Node(one["name"], phase, started, ended, str(one.get("message") or ""))
    return str(workflow["metadata"]["name"]), nodes


def _of_details(details: Iterable[Mapping[str, Any]]) -> tuple[str, dict[str, Node]]:
    """Return the same from the API's details of a run, which do not say what a node's full name is."""
    told: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for detail in details:
        if detail.get("display_name"):
            told[detail["display_name"]].append(detail)
    below = {id(one): _below(one) for many in told.values() for one in many}
    ids = set().union(*below.values()) if below else set()
    if not ids:
        return "", {}
    workflow = min(ids).rpartition("-")[0]
    nodes: dict[str, Node] = {}
    left = {display: list(many) for display, many in told.items()}
    for name in _full_names(workflow, told, ids):
        candidates = left[_last(name)]
        if len(told[_last(name)]) > 1:
            again = node_id(workflow, f"{name}(0)")
            named = [one for one in candidates if again in below[id(one)]]
            # What has nothing below it is told from its like by the time.
            candidates = named or _within(nodes.get(_above(name)), [one for one in candidates if not below[id(one)]])
        for chosen in candidates[:1]:
            left[_last(name)].remove(chosen)
            nodes[name] = _node(name, chosen)
    return workflow, nodes


def _full_names(workflow: str, displays: Collection[str], ids: set[str]) -> list[str]:
    """Return the full names of the nodes with these last names: those whose hashes are among the ids."""
    names = [workflow]
    for full in names:
        own, start = _last(full), _hash(f"{full}.")
        holds = not own.endswith(DRIVER) and DRIVER + "(" not in own and not own.startswith(EXECUTOR)
        for display in displays:
            again = re.fullmatch(r"(.*)(\(\d+\))", display)
            if again and again[1] in displays:
                if again[1] != own:
                    continue
                child = full + again[2]
            elif holds and f"{workflow}-{_hash(display, start)}" in ids:
                child = f"{full}.{display}"
            else:
                continue
            if node_id(workflow, child) in ids and child not in names:
                names.append(child)
    return names


def _within(parent: Node | None, candidates: list[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Of details that look alike, the pods of tasks that begin at once, the one that fits best into what holds it."""
    if parent is None:
        return []

    def misfit(detail: Mapping[str, Any]) -> tuple[bool, bool, float]:
        node = _node("", detail)
        before = bool(parent.started and node.started and node.started < parent.started)
        after = bool(parent.ended and (node.ended is None or node.ended > parent.ended))
        late = (parent.ended - node.ended).total_seconds() if parent.ended and node.ended else 0.0
        early = (node.started - parent.started).total_seconds() if parent.started and node.started else 0.0
        return before or after, node.phase != parent.phase, late + early

    return sorted((one for one in candidates if not misfit(one)[0]), key=misfit)


def _node(name: str, detail: Mapping[str, Any]) -> Node:
    state = str(detail.get("state") or "OMITTED")
    message = str((detail.get("error") or {}).get("message") or "")
    return Node(name, state, _moment(detail.get("start_time")), _moment(detail.get("end_time")), message)


def _below(detail: Mapping[str, Any]) -> set[str]:
    return {str(child["pod_name"]) for child in detail.get("child_tasks") or () if child.get("pod_name")}


def _last(name: str) -> str:
    """Return the last name of a node: `exit-handler-1.onExit` has a point of its own."""
    match = re.search(r"(?:^|\.)([^.]+(?:\.onExit)?(?:\(\d+\))?)$", name)
    return match[1] if match else name


def _above(name: str) -> str:
    """Return the full name of the node that holds a node, or tries it again."""
    again = re.fullmatch(r"(.*)\(\d+\)", name)
    return again[1] if again else name.removesuffix(f".{_last(name)}")


def node_id(workflow: str, name: str) -> str:
    """Argo's id of a node, from its full name."""
    return workflow if name == workflow else f"{workflow}-{_hash(name)}"


def _hash(text: str, start: int = 0x811C9DC5) -> int:
    """FNV-1a with 32 bits; `start` is the hash of what comes before."""
    for byte in text.encode():
        start = (start ^ byte) * 0x01000193 & 0xFFFFFFFF
    return start


def _words(message: str) -> str:
    """Return what Argo says, shortly."""
    message = message.removeprefix("main: ").removeprefix("Unschedulable: ")
    if "OOMKilled" in message:
        return "out of memory (OOMKilled)"
    return re.sub(r"\.? preemption:.*", "", message, flags=re.DOTALL).strip()


def _moment(text: object) -> datetime | None:
    """Return a time of the API, None for those by which it says that there is none."""
    if not text:
        return None
    moment = datetime.fromisoformat(str(text).replace("Z", "+00:00"))
    return moment if moment.year > 1970 else None
