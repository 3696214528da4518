"""Training on several nodes of a cluster: a TrainJob of Kubeflow Trainer, started, watched and removed by the step.

    step ──TrainingRuntime, TrainJob──▶ Kubernetes ──▶ a pod a node: torchrun -m segmodels.training.worker job.json
     ▲                                                      │
     └──── rows.jsonl, outcome.json on the shared volume ───┘

The pods are those of a TrainingRuntime of the run's own, because what a TrainJob may override in a runtime differs
between Trainer's releases, while runtimes have stayed the same. A worker that dies takes the others with it; JobSet
starts all of them again, and they go on from the resume state.

A pod may be gone before its step has removed anything: Kubeflow's launcher ends at the first signal, and the container
with it. So the nodes end by themselves when nobody follows them any more, and a step first removes the TrainJob of an
earlier attempt, which has the same name, and waits for its pods: never do two write the same state.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.errors import StepError
from components.lock import cache_folder
from segmodels.training import launch
from segmodels.training.launch import Job
from segmodels.training.state import TrainingError

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

GROUP, VERSION = "trainer.kubeflow.org", "v1alpha1"
PLURALS = ("trainjobs", "trainingruntimes")
JOBSET_LABEL = "jobset.sigs.k8s.io/jobset-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
POLL_SECONDS = 5.0
# What a node has to save its state before it is killed.
GRACE_SECONDS = 120
# How long the API may be away, and how long the pods of an earlier attempt may take to go.
AWAY_SECONDS = 600
# How long nodes train while no step follows them.
LEASH_SECONDS = 180.0


@dataclasses.dataclass(frozen=True)
class Nodes:
    """The pods of a TrainJob.

    Attributes:
        count: Number of nodes.
        processes: Processes of each, one a device.
        pod: The pod's specification without its container: tolerations, node selector, volumes, …
        container: The container's image, resources, volume mounts and environment.
        labels: Of TrainJob and pods.
    """

    count: int
    processes: int
    pod: Mapping[str, Any]
    container: Mapping[str, Any]
    labels: Mapping[str, str] = dataclasses.field(default_factory=dict)


class TrainJobLauncher:
    """Starts the processes of a training on several nodes, as `segmodels.training.fit` asks for it.

    Args:
        nodes: The pods.
        data_md5: The dataset's version; its copy on the shared volume is named by it.
        api: Kubernetes' client; that of the pod by default.
        namespace: Where the TrainJob is made; the pod's own by default.
    """

    def __init__(
        self, nodes: Nodes, data_md5: str, *, api: ApiClient | None = None, namespace: str | None = None
    ) -> None:
        self.nodes, self.data_md5 = nodes, data_md5
        self._api = api or _in_cluster()
        self._namespace = namespace or NAMESPACE.read_text().strip()

    def __call__(self, job: Job, on_row: Callable[[Mapping[str, Any]], None]) -> dict[str, Any]:
        """Train; the arguments and the result are those of `segmodels.training.launch.run`.

        Raises:
            TrainingError: Training cannot go on, or its nodes died again and again.
            TrainingInterrupted: This process was told to stop; the state is saved.
            StepError: Kubernetes refuses the job, or does not answer any more.
        """
        shared = cache_folder() / "trainjobs" / Path(job.state).name
        exchange, name = shared / "exchange", _name(job)
        remote = dataclasses.replace(
            job,
            data=str(self._data(Path(job.data))),
            out=str(shared / "model"),
            state=str(shared / "state"),
            leash=LEASH_SECONDS,
        )
        self._clear(name)
        if _finished(remote, exchange):
            print(f"TrainJob {name}: an earlier attempt has finished this training; its result is taken", flush=True)
            code = 0
            for row in launch.rows(exchange):
                on_row(row)
        else:
            shutil.rmtree(exchange, ignore_errors=True)
            exchange.mkdir(parents=True)
            launch.write(remote, exchange)
            with launch.holding(exchange, POLL_SECONDS), self._running(name, exchange / "job.json") as running:
                code = self._follow(name, exchange, on_row, *running)
        outcome = launch.outcome(exchange, job, code)
        shutil.rmtree(job.out, ignore_errors=True)
        shutil.copytree(shared / "model", job.out)
        shutil.rmtree(shared)
        return {**outcome, "folder": job.out}

    def _data(self, folder: Path) -> Path:
        """Return the dataset on the volume that all nodes have, copied there once for each version."""
        shared = cache_folder() / "datasets" / self.data_md5
        if not shared.is_dir():
            part = shared.with_name(f"{shared.name}.{os.getpid()}.part")
            shutil.copytree(folder, part, dirs_exist_ok=True)
            try:
                part.rename(shared)
            except OSError:  # another arm was faster
                shutil.rmtree(part)
        return shared

    def _clear(self, name: str) -> None:
        """Remove what an earlier attempt of this training has left, and waits until its pods are gone.

        Raises:
            StepError: They do not go.
        """
        from kubernetes.client import CoreV1Api

        pods, told, began = CoreV1Api(self._api), False, time.monotonic()
        while True:
            there, trouble = list[str](), None
            try:
                there = [plural for plural in PLURALS if self._uid(plural, name)]
                selector = f"{JOBSET_LABEL}={name}"
                if not there and not pods.list_namespaced_pod(self._namespace, label_selector=selector).items:
                    return
                if not told:
                    print(f"TrainJob {name}: an earlier attempt of this training is removed first", flush=True)
                    told = True
            except Exception as error:
                # Without the rights or without Trainer: what is made next says so.
                if getattr(error, "status", None) in (403, 404):
                    return
                trouble = error
            for plural in there:
                self._remove(plural, name)
            if time.monotonic() - began > AWAY_SECONDS:
                if trouble:
                    raise StepError(
                        f"TrainJob {name}: Kubernetes does not answer ({_reason(trouble)}); run the step again"
                    )
                raise StepError(
                    f"TrainJob {name}: what an earlier attempt of this training has left does not go away; remove it "
                    f"and its pods: kubectl -n {self._namespace} delete trainjob,trainingruntime {name}"
                )
            time.sleep(POLL_SECONDS)

    def _uid(self, plural: str, name: str) -> str | None:
        """Return the identity of an object, or None where there is none of that name."""
        from kubernetes.client import CustomObjectsApi
        from kubernetes.client.exceptions import ApiException

        api = CustomObjectsApi(self._api)
        try:
            resource: Any = api.get_namespaced_custom_object(GROUP, VERSION, self._namespace, plural, name)
        except ApiException as error:
            if error.status == 404:
                return None
            raise
        return str(resource["metadata"]["uid"])

    @contextmanager
    def _running(self, name: str, job: Path) -> Iterator[tuple[str, list[int]]]:
        """Have the TrainJob while the body runs; it is removed with its pods also when this process is told to stop.

        Gives its identity, and a list that has the signals by which this process was told to stop.
        """
        from kubernetes.client import CustomObjectsApi
        from kubernetes.client.exceptions import ApiException

        api = CustomObjectsApi(self._api)
        stopped: list[int] = []
        uids: dict[str, str] = {}
        where = (GROUP, VERSION, self._namespace)
        previous = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
        try:
            for plural, made in (("trainingruntimes", self.runtime(name, job)), ("trainjobs", self.trainjob(name))):
                try:
                    answered: Any = api.create_namespaced_custom_object(*where, plural, made)
                except ApiException as error:
                    raise StepError(
                        f"Kubernetes refuses the TrainJob of {self.nodes.count} nodes ({_reason(error)}); it needs "
                        "Kubeflow Trainer, and the pod's account what infra/k8s/overlays/nodes grants: docs/cluster.md"
                    ) from None
                uids[plural] = str(answered["metadata"]["uid"])
            print(f"TrainJob {name}: {self.nodes.count} nodes of {self.nodes.processes} processes", flush=True)
            yield uids["trainjobs"], stopped
        finally:
            signal.signal(signal.SIGTERM, previous)
            for plural in PLURALS:
                if plural in uids:
                    self._remove(plural, name, uids[plural])

    def _remove(self, plural: str, name: str, uid: str | None = None) -> None:
        """Remove an object and what it has made, if it is still there; where `uid` is given, no other of that name."""
        from kubernetes.client import CustomObjectsApi, V1DeleteOptions, V1Preconditions

        # Not in the foreground: the TrainJob would wait for its pods with a finalizer, which nothing can take away
        # any more once its runtime is gone, since Trainer refuses every change of such a TrainJob.
        options = V1DeleteOptions(propagation_policy="Background", preconditions=V1Preconditions(uid=uid))
        try:
            CustomObjectsApi(self._api).delete_namespaced_custom_object(
                GROUP, VERSION, self._namespace, plural, name, body=options
            )
        except Exception as error:
            if getattr(error, "status", None) not in (404, 409):
                print(f"note: {plural}/{name} is left behind ({_reason(error)})", file=sys.stderr, flush=True)

    def _follow(
        self, name: str, exchange: Path, on_row: Callable[[Mapping[str, Any]], None], uid: str, stopped: list[int]
    ) -> int:
        """Wait for the job's end; tells rows and the first node's log. Gives 0, or 1 where it failed."""
        from kubernetes.client import CustomObjectsApi

        api = CustomObjectsApi(self._api)
        told, log, answered = 0, _Log(self._api, self._namespace, name), time.monotonic()
        deadline = None
        while True:
            try:
                job: Any = api.get_namespaced_custom_object(GROUP, VERSION, self._namespace, "trainjobs", name)
                answered = time.monotonic()
                if job["metadata"]["uid"] != uid:
                    raise TrainingError(
                        f"TrainJob {name}: another run of the same training has taken its place; wait for that one"
                    )
                log.tell()
            except TrainingError:
                raise
            except Exception as error:
                if getattr(error, "status", None) == 404 and deadline is None:
                    raise TrainingError(f"TrainJob {name} was removed by somebody; run the step again") from None
                if time.monotonic() - answered > AWAY_SECONDS:
                    raise StepError(
                        f"TrainJob {name}: Kubernetes does not answer ({_reason(error)}); run the step again, it "
                        "goes on from the last epoch"
                    ) from None
                job = {}
            for row in launch.rows(exchange)[told:]:
                on_row(row)
                told += 1
            ended = {c["type"] for c in job.get("status", {}).get("conditions", ()) if c["status"] == "True"}
            if ended & {"Complete", "Failed"} or (deadline and (exchange / "outcome.json").is_file()):
                return 0 if "Complete" in ended else 1
            if stopped and deadline is None:
                # Its pods are told to stop, too, and save their state.
                deadline = time.monotonic() + GRACE_SECONDS
                self._remove("trainjobs", name, uid)
            if deadline and time.monotonic() > deadline:
                return 1
            time.sleep(POLL_SECONDS)

    def runtime(self, name: str, job: Path) -> dict[str, Any]:
        """Return the TrainingRuntime: how the pods of the TrainJob look."""
        container = {
            "name": "node",
            # Trainer gives torchrun the number of nodes, the rank and the first node's address by its environment.
            "command": ["torchrun", "--max-restarts=0", "-m", "segmodels.training.worker", str(job)],
            "env": [{"name": "TORCH_CPP_LOG_LEVEL", "value": "ERROR"}],  # as `segmodels.training.launch.run` has it
            **self.nodes.container,
        }
        pod = {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            **self.nodes.pod,
            "containers": [container],
        }
        node = {
            "name": "node",
            "template": {
                "metadata": {"labels": {f"{GROUP}/trainjob-ancestor-step": "trainer"}},
                "spec": {"backoffLimit": 0, "template": {"metadata": {"labels": {**self.nodes.labels}}, "spec": pod}},
            },
        }
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "TrainingRuntime",
            "metadata": {"name": name, "namespace": self._namespace, "labels": {**self.nodes.labels}},
            "spec": {
                "mlPolicy": {"numNodes": self.nodes.count, "torch": {}},
                "template": {
                    "spec": {
                        "failurePolicy": {"maxRestarts": launch.RESTARTS},
                        "replicatedJobs": [node],
                    }
                },
            },
        }

    def trainjob(self, name: str) -> dict[str, Any]:
        """Return the TrainJob: one run of the runtime of the same name."""
        return {
            "apiVersion": f"{GROUP}/{VERSION}",
            "kind": "TrainJob",
            "metadata": {"name": name, "namespace": self._namespace, "labels": {**self.nodes.labels}},
            "spec": {
                "runtimeRef": {"apiGroup": GROUP, "kind": "TrainingRuntime", "name": name},
                # The one place for it that every release from 2.0.1 on has; without it Trainer decides.
                "trainer": {"numProcPerNode": self.nodes.processes},
            },
        }


class _Log:
    """What the first node prints, told as it comes; a pod that follows a dead one is told from its beginning."""

    def __init__(self, api: Any, namespace: str, name: str) -> None:
        from kubernetes.client import CoreV1Api

        self._api, self._namespace, self._name = CoreV1Api(api), namespace, name
        self._told: dict[str, int] = {}

    def tell(self) -> None:
        from kubernetes.client.exceptions import ApiException

        selector = f"{JOBSET_LABEL}={self._name},{INDEX_LABEL}=0"
        for pod in self._api.list_namespaced_pod(self._namespace, label_selector=selector).items:
            try:
                lines = self._api.read_namespaced_pod_log(pod.metadata.name, self._namespace).splitlines()
            except ApiException:  # its container has not started yet
                continue
            known = self._told.get(pod.metadata.uid, 0)
            for line in lines[known:]:
                print(line, flush=True)
            self._told[pod.metadata.uid] = len(lines)


def _finished(job: Job, exchange: Path) -> bool:
    """Tell whether an attempt whose step was gone by then has trained this very job to its end."""
    try:
        same = json.loads((exchange / "job.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(job)))
        said = json.loads((exchange / "outcome.json").read_text())
    except (OSError, ValueError):
        return False
    return same and "error" not in said and Path(job.out).is_dir()


def _in_cluster() -> Any:
    from kubernetes import client, config

    try:
        config.load_incluster_config()
    except config.ConfigException as error:
        raise StepError(
            f"several nodes train as a TrainJob of a cluster, and this is no pod of one ({error}); set resources.nodes "
            "to 1, or submit the pipeline"
        ) from None
    return client.ApiClient()


def _name(job: Job) -> str:
    """Return a name that Kubernetes takes, the same for the same training."""
    digest = hashlib.sha256(job.state.encode()).hexdigest()[:6]
    key = "".join(c if c.isalnum() else "-" for c in (job.name or job.architecture).lower()).strip("-")
    return f"train-{key[:30]}-{digest}"


def _reason(error: Exception) -> str:
    body = getattr(error, "body", None)
    try:
        return str(json.loads(str(body))["message"])
    except (TypeError, ValueError, KeyError):
        return " ".join(str(getattr(error, "reason", None) or error).split())[:300]
