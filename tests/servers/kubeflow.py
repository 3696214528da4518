"""Kubeflow Pipelines 2.17.0 as its API answers, for runs that a test writes down or that were recorded.

It has the addresses of two servers: the API's own, and the user interface's, which passes on `/apis/v1beta1` and
`/apis/v2beta1` alone and has logs of pods besides (frontend/server/app.ts). What a run looks like, with the nodes that
Argo puts around each task, is held against recordings where somebody has them.
"""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pipeline.runs import node_id

WORKFLOW = "segmentation-x7k2p"
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
ABSENT = "0001-01-01T00:00:00Z"
# In the order in which they depend on each other.
NAMES = ("download", "validate", "train-unet", "evaluate-unet", "register", "report")
UNRETRIED = ("validate", "report", "finish")

Attempts = Sequence[tuple[str, str]]


@dataclass
class Node:
    """One of Argo's nodes: its name, type and phase, when it was, why, and which come after it."""

    name: str
    kind: str
    phase: str
    began: int
    ended: int | None
    message: str = ""
    children: list[str] = field(default_factory=list)

    @property
    def display(self) -> str:
        own = self.name.rpartition(".")[2]
        return f"exit-handler-1.{own}" if own.startswith("onExit") else own


def run(state: str, run_id: str = "r1", name: str = "first", **tasks: Attempts | str) -> tuple[dict[str, Any], Any]:
    """A run as the API describes it, and Argo's workflow of it.

    Args:
        state: Of the whole.
        run_id: Its id.
        name: Its name.
        tasks: Task -> its attempts as (phase, message), or `cached`, `omitted` or `driver` while only that runs.
    """
    nodes = _nodes(state, {key.replace("_", "-"): value for key, value in tasks.items()})
    described = {
        "run_id": run_id,
        "display_name": name,
        "state": state,
        "created_at": _time(0),
        "run_details": {"task_details": [_detail(node) for node in nodes]},
        "pipeline_spec": {"pipeline_spec": _spec(), "platform_spec": {"platforms": {"kubernetes": {}}}},
    }
    status = {node_id(WORKFLOW, node.name): _status(node) for node in nodes}
    return described, {"metadata": {"name": WORKFLOW}, "status": {"nodes": status}}


def pod(task: str, attempt: int = 0) -> str:
    """The name of a pod of a task in such a run."""
    above = "exit-handler-1.onExit(0)" if task == "finish" else "exit-handler-1(0)"
    node = node_id(WORKFLOW, f"{WORKFLOW}(0).root(0).{above}.{task}(0).executor({attempt})")
    template = "system-container-impl" if task in UNRETRIED else "retry-system-container-impl"
    return f"{WORKFLOW}-{template}-{node.rpartition('-')[2]}"


def _nodes(state: str, tasks: Mapping[str, Attempts | str]) -> list[Node]:
    now = 0
    phase = {"SUCCEEDED": "Succeeded", "FAILED": "Failed"}.get(state, "Running")
    top, root, steps = f"{WORKFLOW}(0)", f"{WORKFLOW}(0).root(0)", f"{WORKFLOW}(0).root(0).exit-handler-1(0)"
    made: list[Node] = []

    def again(name: str, kind: str, phase: str, began: int, ended: int | None, message: str = "") -> Node:
        """What may be tried again is two nodes."""
        outer = Node(name, "Retry", phase, began, ended, message, [f"{name}(0)"])
        made.extend((outer, Node(f"{name}(0)", kind, phase, began, ended, message)))
        return made[-1]

    over = None if phase == "Running" else 10_000
    again(WORKFLOW, "DAG", phase, 0, over).children.append(f"{top}.root-driver")
    again(f"{top}.root-driver", "Pod", "Succeeded", 0, 5).children.append(f"{top}.root")
    again(f"{top}.root", "DAG", phase, 5, over).children.append(f"{root}.exit-handler-1-driver")
    again(f"{root}.exit-handler-1-driver", "Pod", "Succeeded", 5, 10).children.append(f"{root}.exit-handler-1")
    first = f"{steps}.{next(iter(tasks), 'download')}-driver"
    again(f"{root}.exit-handler-1", "DAG", phase, 10, over).children.append(first)
    now = 10
    before: Node | None = None
    for task, attempts in tasks.items():
        group = f"{root}.exit-handler-1.onExit(0)" if task == "finish" else steps
        path = f"{group}.{task}"
        if before is not None:
            before.children.append(f"{path}-driver")
        if attempts == "omitted":
            why = "omitted: depends condition not met"
            made.append(Node(f"{path}-driver", "Skipped", "Omitted", now, now, why, [path]))
            made.append(Node(path, "Skipped", "Omitted", now, now, why))
            before = made[-1]
            continue
        if attempts == "driver":
            again(f"{path}-driver", "Pod", "Running", now, None)
            continue
        again(f"{path}-driver", "Pod", "Succeeded", now, now + 5).children.append(path)
        now += 10
        if attempts == "cached":
            before = again(path, "DAG", "Succeeded", now, now)
            before.children.append(f"{path}(0).executor")
            made.append(
                Node(f"{path}(0).executor", "Skipped", "Skipped", now, now, "when 'true != true' evaluated false")
            )
            continue
        began, pods = now, []
        for number, (at, message) in enumerate(attempts):
            ended = None if at in ("Pending", "Running") else now + 60
            pods.append(Node(f"{path}(0).executor({number})", "Pod", at, now, ended, message))
            now += 120
        last = pods[-1]
        waits = last.phase == "Failed" and state == "RUNNING"
        whole = "Running" if last.ended is None or waits else last.phase
        ended = None if whole == "Running" else now
        before = again(path, "DAG", whole, began, ended)
        before.children.append(f"{path}(0).executor")
        names = [one.name for one in pods]
        made.append(Node(f"{path}(0).executor", "Retry", whole, began, ended, last.message, names))
        made.extend(pods)
    return made


def _detail(node: Node) -> dict[str, Any]:
    detail: dict[str, Any] = {
        "display_name": node.display,
        "create_time": _time(0),
        "start_time": _time(node.began),
        "end_time": ABSENT if node.ended is None else _time(node.ended),
    }
    if node.phase != "Omitted":  # for which the API has no state
        detail["state"] = node.phase.upper()
    if node.children:
        detail["child_tasks"] = [{"pod_name": node_id(WORKFLOW, child)} for child in node.children]
    return detail


def _status(node: Node) -> dict[str, Any]:
    told: dict[str, Any] = {"name": node.name, "displayName": node.display, "type": node.kind, "phase": node.phase}
    told |= {"startedAt": _time(node.began), "finishedAt": None if node.ended is None else _time(node.ended)}
    return told | ({"message": node.message} if node.message else {})


def _spec() -> dict[str, Any]:
    tasks: dict[str, Any] = {}
    for number, name in enumerate(NAMES):
        tasks[name] = {
            "componentRef": {"name": f"comp-{name}"},
            "dependentTasks": list(NAMES[max(number - 1, 0) : number]),
        }
        if name not in UNRETRIED:
            tasks[name]["retryPolicy"] = {"maxRetryCount": 2}
    components: dict[str, Any] = {f"comp-{name}": {"executorLabel": f"exec-{name}"} for name in (*NAMES, "finish")}
    components["comp-exit-handler-1"] = {"dag": {"tasks": tasks}}
    root = {
        "exit-handler-1": {"componentRef": {"name": "comp-exit-handler-1"}},
        "finish": {"componentRef": {"name": "comp-finish"}, "dependentTasks": ["exit-handler-1"]},
    }
    return {"root": {"dag": {"tasks": root}}, "components": components}


def _time(seconds: int) -> str:
    return (BEGAN + timedelta(seconds=seconds)).isoformat().replace("+00:00", "Z")


@dataclass
class Server:
    """A cluster that answers.

    Attributes:
        url: Its address.
        runs: Run -> its states, each a description and perhaps Argo's workflow; looked at, it goes on to the next.
        logs: Pod -> what its container has printed until now.
        archive: Node -> what was archived.
        interface: Whether the address is the user interface's, or the API's own.
        older: Whether it has the older API.
        token: What it asks for; empty lets everybody in.
        asked: The addresses that were asked for.
    """

    url: str = ""
    runs: dict[str, list[tuple[dict[str, Any], Any]]] = field(default_factory=dict)
    logs: dict[str, str] = field(default_factory=dict)
    archive: dict[str, str] = field(default_factory=dict)
    interface: bool = True
    older: bool = True
    token: str = ""
    submitted: list[tuple[dict[str, str], dict[str, Any]]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


class _Handler(http.server.BaseHTTPRequestHandler):
    cluster: Server

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        self.cluster.asked.append(place.path)
        for pattern, answer in (
            (r"/apis/v2beta1/healthz", lambda: self._json({"multi_user": False})),
            (r"/apis/v2beta1/runs", self._listed),
            (r"/apis/v2beta1/runs/([^/]+)", self._described),
            (r"/apis/v1beta1/runs/([^/]+)", self._older),
            (r"/apis/v2beta1/runs/[^/]+/nodes/([^/]+)/artifacts/main-logs:read", self._artifact),
            (r"/apis/v1alpha1/runs/[^/]+/nodes/([^/]+)/log", self._log),
            (r"/k8s/pod/logs", self._shown),
            (r"/apis/v2beta1/recurringruns", lambda: self._json({"recurringRuns": self.cluster.recurring})),
            (r"/apis/v2beta1/experiments.*", self._experiments),
        ):
            match = re.fullmatch(pattern, place.path)
            if match:
                answer(*match.groups())
                return
        self._send(404, b"Not found", "text/plain")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        if self.path.endswith(":terminate"):
            self.cluster.stopped.append(self.path)
            self._json({})
        elif self.path.startswith("/apis/v2beta1/runs"):
            self.cluster.submitted.append((dict(self.headers), body))
            self._json({"run_id": "r1", "display_name": body["display_name"]})
        elif self.path.startswith("/apis/v2beta1/recurringruns"):
            made = body | {"recurring_run_id": f"s{len(self.cluster.recurring)}"}
            self.cluster.recurring.append(made)
            self._json(made)
        else:
            self._json({"experiment_id": "e1", "display_name": body["display_name"]})

    def do_DELETE(self) -> None:
        gone = self.path.rpartition("/")[2]
        self.cluster.recurring[:] = [one for one in self.cluster.recurring if one["recurring_run_id"] != gone]
        self._json({})

    def _listed(self) -> None:
        self._json({"runs": [states[0][0] for states in self.cluster.runs.values()]})

    def _described(self, run_id: str) -> None:
        states = self.cluster.runs.get(run_id)
        if states is None:
            self._json({"message": f"Run {run_id} not found"}, 404)
        else:
            self._json(states[0][0])

    def _older(self, run_id: str) -> None:
        """The last question of a look at a run: the next one sees it go on."""
        states = self.cluster.runs[run_id]
        _, workflow = states.pop(0) if len(states) > 1 else states[0]
        if not self.cluster.older:
            self._send(404, b"Not found", "text/plain")
            return
        self._json({"pipeline_runtime": {"workflow_manifest": json.dumps(workflow)} if workflow else {}})

    def _artifact(self, node: str) -> None:
        if node in self.cluster.archive:
            self._json({"data": base64.b64encode(self.cluster.archive[node].encode()).decode()})
        else:
            self._json({"error_message": "artifact not found"}, 404)

    def _log(self, name: str) -> None:
        if self.cluster.interface:
            self._send(404, b"Not found", "text/plain")
            return
        found = self.cluster.logs.get(name, self.cluster.archive.get(name))
        # Its status is written before it looks (run_log_server.go).
        said = json.dumps({"error_message": f"Failed to read logs from {name}"}) if found is None else found
        self._send(200, said.encode(), "text/plain")

    def _shown(self) -> None:
        asked = parse_qs(urlsplit(self.path).query)
        if not self.cluster.interface:
            self._send(404, b"404 page not found", "text/plain")
        elif asked["podname"][0] in self.cluster.logs and asked["podnamespace"] == ["kubeflow"]:
            self._send(200, self.cluster.logs[asked["podname"][0]].encode(), "")
        else:
            self._send(500, b"Could not get main container logs: Error", "text/html")

    def _experiments(self) -> None:
        self._json({"experiments": [{"experiment_id": "e1", "display_name": "segmentation"}]})

    def _json(self, content: Any, status: int = 200) -> None:
        self._send(status, json.dumps(content).encode(), "application/json")

    def _send(self, status: int, data: bytes, kind: str) -> None:
        if self.cluster.token and self.headers.get("Authorization") != f"Bearer {self.cluster.token}":
            status, data, kind = 401, b"{}", "application/json"
        self.send_response(status)
        if kind:
            self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A cluster on loopback."""
    cluster = Server()
    handler = type("BoundHandler", (_Handler,), {"cluster": cluster})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        cluster.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield cluster
        finally:
            server.shutdown()
