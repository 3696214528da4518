"""The part of a Kubernetes cluster with Kubeflow Trainer that a TrainJob needs, with processes for pods.

What is created is really run: a TrainJob starts the command of its runtime's container once for each node, with the
environment that Trainer gives torchrun; a pod that dies takes the others with it, and all are started again as JobSet
does; what is deleted is told to stop by SIGTERM.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from tests.servers import ports
from tests.servers.trainer_types import TYPES, unknown

API = "/apis/trainer.kubeflow.org/v1alpha1/namespaces/"


@dataclass
class Cluster:
    """What there is.

    Attributes:
        url: Of its API.
        folder: Where the pods' logs go.
        objects: (plural, name) -> what was created.
        deleted: Names in the order in which they were deleted.
        pods: Those of the running TrainJob, by node.
        stuck: TrainJobs that nobody can remove any more: they waited for their pods (deletion in the foreground) when
            their runtime went, and Trainer refuses the change that would end them, as each without a runtime
            (kubeflow/trainer 2.3.0, pkg/webhooks/trainjob_webhook.go; seen on a real one).
        restarts: How often the pods of a job were started again.
        refuses: Status and message with which everything that is created is refused.
    """

    url: str
    folder: Path
    objects: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    deleted: list[tuple[str, str]] = field(default_factory=list)
    pods: list[subprocess.Popen[bytes]] = field(default_factory=list)
    stuck: list[str] = field(default_factory=list)
    restarts: int = 0
    refuses: tuple[int, str] | None = None
    _threads: list[threading.Thread] = field(default_factory=list)

    def run(self, name: str) -> None:
        """Runs a TrainJob to its end."""
        job = self.objects["trainjobs", name]
        runtime = self.objects["trainingruntimes", job["spec"]["runtimeRef"]["name"]]["spec"]
        allowed = runtime["template"]["spec"]["failurePolicy"]["maxRestarts"]
        while True:
            self._start(runtime, job["spec"]["trainer"]["numProcPerNode"])
            while all(pod.poll() in (None, 0) for pod in self.pods) and any(pod.poll() is None for pod in self.pods):
                time.sleep(0.05)
            succeeded = all(pod.poll() == 0 for pod in self.pods)
            for pod in self.pods:
                pod.terminate()
            for pod in self.pods:
                pod.wait()
            if succeeded or ("trainjobs", name) in self.deleted or self.restarts == allowed:
                break
            self.restarts += 1
        job["status"] = {"conditions": [{"type": "Complete" if succeeded else "Failed", "status": "True"}]}

    def _start(self, runtime: dict[str, Any], processes: int) -> None:
        policy, (node,) = runtime["mlPolicy"], runtime["template"]["spec"]["replicatedJobs"]
        (container,) = node["template"]["spec"]["template"]["spec"]["containers"]
        port = ports.free()
        self.pods = []
        for rank in range(policy["numNodes"]):
            environment = {
                "PET_NNODES": str(policy["numNodes"]),
                "PET_NPROC_PER_NODE": str(processes),
                "PET_NODE_RANK": str(rank),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
                "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            }
            with self.log(rank, self.restarts).open("wb") as log:
                pod = subprocess.Popen(
                    container["command"], env=os.environ | environment, stdout=log, stderr=log, start_new_session=True
                )
            self.pods.append(pod)

    def log(self, rank: int, restart: int) -> Path:
        return self.folder / f"node-{rank}-{restart}.log"

    def create(self, plural: str, made: dict[str, Any]) -> None:
        name = made["metadata"]["name"]
        made["metadata"]["uid"] = str(uuid.uuid4())
        self.objects[plural, name] = made
        self.deleted = [one for one in self.deleted if one != (plural, name)]
        if plural == "trainjobs":
            self._threads.append(threading.Thread(target=self.run, args=(name,), daemon=True))
            self._threads[-1].start()

    def delete(self, plural: str, name: str, propagation: str | None) -> None:
        self.deleted.append((plural, name))
        if plural == "trainjobs" and propagation == "Foreground":
            self.stuck.append(name)
        if plural == "trainjobs":
            for pod in self.pods:
                pod.terminate()

    def close(self) -> None:
        for pod in self.pods:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pod.pid, signal.SIGKILL)


class Handler(BaseHTTPRequestHandler):
    cluster: Cluster

    def do_POST(self) -> None:
        made = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.cluster.refuses:
            self._answer(self.cluster.refuses[0], {"kind": "Status", "message": self.cluster.refuses[1]})
            return
        pruned = {v: p for v in TYPES if (p := unknown(v, self._named()[0], made))}
        if pruned:
            self._answer(422, {"kind": "Status", "message": f"unknown fields: {pruned}"})
            return
        self.cluster.create(self._named()[0], made)
        self._answer(201, made)

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        if place.path.startswith(API):
            self._object()
        elif match := re.search(r"/pods/node-0-(\d+)/log$", place.path):
            self._answer(200, self.cluster.log(0, int(match[1])).read_text())
        elif place.path.endswith("/pods"):
            selector = parse_qs(place.query)["labelSelector"][0]
            assert re.fullmatch(r"jobset[^,=]+=[^,=]+(,batch\S+=0)?", selector)
            alive = "batch" in selector or any(pod.poll() is None for pod in self.cluster.pods)
            names = alive * [f"node-0-{restart}" for restart in range(self.cluster.restarts + 1)]
            items = [{"metadata": {"name": name, "uid": name}} for name in names]
            self._answer(200, {"kind": "PodList", "apiVersion": "v1", "items": items})
        else:
            self._answer(404, {"message": self.path})

    def do_DELETE(self) -> None:
        options = json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "{}")
        uid = options.get("preconditions", {}).get("uid")
        if self._named() not in self.cluster.objects or self._named() in self.cluster.deleted:
            self._answer(404, {"kind": "Status"})
        elif uid not in (None, self.cluster.objects[self._named()]["metadata"]["uid"]):
            self._answer(409, {"kind": "Status", "message": "the UID in the precondition is another one"})
        else:
            self.cluster.delete(*self._named(), options.get("propagationPolicy"))
            self._answer(200, {"kind": "Status"})

    def _object(self) -> None:
        if self._named() in self.cluster.deleted or self._named() not in self.cluster.objects:
            self._answer(404, {"kind": "Status", "message": "not found"})
        else:
            self._answer(200, self.cluster.objects[self._named()])

    def _named(self) -> tuple[str, str]:
        _, plural, name, *_ = [*urlsplit(self.path).path.removeprefix(API).split("/"), "", ""]
        return plural, name

    def _answer(self, status: int, content: Any) -> None:
        body = (content if isinstance(content, str) else json.dumps(content)).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Cluster]:
    """A cluster whose API listens on loopback."""
    handler = type("BoundHandler", (Handler,), {})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as http:
        cluster = Cluster(f"http://127.0.0.1:{http.server_address[1]}", folder)
        handler.cluster = cluster  # type: ignore[attr-defined]
        threading.Thread(target=http.serve_forever, daemon=True).start()
        try:
            yield cluster
        finally:
            cluster.close()
            http.shutdown()
