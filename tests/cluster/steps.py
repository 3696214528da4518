"""A task's pod as Kubeflow makes it of the compiled pipeline, without Kubeflow: its launcher is left out, artifacts are
folders of the volume."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp.compiler import Compiler

from components.params import Params
from pipeline.dag import Cluster, build
from tests.cluster.kubernetes import Kubernetes

FOLDER = "/cache/artifacts"
SPACE = "kubeflow"
SETTINGS: dict[str, Any] = {
    "seed": 3,
    "data": {"source": "streets", "streets": {"train": 48, "val": 4, "test": 4, "height": 96, "width": 128}},
    "train": {"epochs": 5, "batch_size": 2, "precision": "32"},
    "register": {"rules": {"miou": {"floor": 0.0}}, "model_name": "cluster"},
    "models": {"unet": {"options": {"width": 4}}},
    "resources": {"default": {"cpu": "1", "memory": "3Gi", "gpu": 0}},
}
PARAMS = Params.parse(SETTINGS, "settings")
# Starts a command in a process group of its own and passes signals on to the group, as Argo's executor does
# (cmd/argoexec/commands/emissary.go, workflow/executor/osspecific, 4.0.5): a shell as the first process would not.
PASS_ON = """
import os, signal, subprocess, sys
process = subprocess.Popen(sys.argv[1:], start_new_session=True)
signal.signal(signal.SIGTERM, lambda number, frame: os.killpg(process.pid, number))
code = process.wait()
sys.exit(code if code >= 0 else 128 - code)
"""
# Ends, as the kernel would, the processes of a pod that have a word among their arguments, but for the first of all.
KILL = """
import os, pathlib, sys
for entry in pathlib.Path("/proc").iterdir():
    other = entry.name.isdigit() and int(entry.name) not in (1, os.getpid())
    if other and sys.argv[1].encode() in (entry / "cmdline").read_bytes().split(bytes(1)):
        os.kill(int(entry.name), 9)
"""
# Says which of NAME|HOST|PORT can be reached.
PROBE = """
import socket, sys, time
time.sleep(5)  # policies come into force a moment after the pod's start
for one in sys.argv[1:]:
    name, host, port = one.split("|")
    try: socket.create_connection((host, int(port)), 4).close(); print("reached", name)
    except OSError as error: print("not", name, error)
"""
CLUSTER = Cluster(
    image="segmodels:0.1.0",
    tracking_uri="http://mlflow.mlflow:5000",
    secret="segmodels",
    cache_claim="segmodels-cache",
    state="s3://segmodels/states",
)


def compiled(params: Params, cluster: Cluster = CLUSTER) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's specification, and what it says of pods."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pipeline.yaml"
        Compiler().compile(build(params, cluster), str(path))
        spec, platform = yaml.safe_load_all(path.read_text())
    return spec, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def pod(params: Params, task: str, name: str, *, out: str = "", cluster: Cluster = CLUSTER) -> dict[str, Any]:
    """The pod of a task.

    Args:
        params: The settings.
        task: Its name in the pipeline.
        name: Of the pod.
        out: Folder of what it makes, below `FOLDER`; the task's name by default.
        cluster: What pods need.
    """
    spec, platform = compiled(params, cluster)
    container = spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]
    told = platform.get(f"exec-{task}", {})
    needs = container["resources"]
    variables: list[dict[str, Any]] = list(container.get("env", ()))
    variables += [
        {"name": one["name"], "valueFrom": {"fieldRef": {"fieldPath": one["fieldPath"]}}}
        for one in told.get("fieldPathAsEnv", ())
    ]
    for secret in told.get("secretAsEnv", ()):
        for key in secret["keyToEnv"]:
            chosen = {"name": secret["secretName"], "key": key["secretKey"], "optional": secret.get("optional", False)}
            variables.append({"name": key["envVar"], "valueFrom": {"secretKeyRef": chosen}})
    claims = [(one["constant"], one["mountPath"]) for one in told.get("pvcMount", ())] or [
        ("segmodels-cache", "/cache")
    ]
    given = json.dumps(executor_input(spec, task, out or task))
    limits = {"cpu": needs["resourceCpuLimit"], "memory": needs["resourceMemoryLimit"]}
    body: dict[str, Any] = {
        "restartPolicy": "Never",
        "serviceAccountName": "segmodels",
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 30,
        # What Kubeflow's compiler gives every task's pod, with the users of infra/k8s/kfp.
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 10001,
            "runAsGroup": 10001,
            "fsGroup": 10001,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "main",
                "image": container["image"],
                "command": ["python", "-c", PASS_ON, *container["command"]],
                "args": [given if argument == "{{$}}" else argument for argument in container["args"]],
                "env": variables,
                "resources": {"requests": limits | {"cpu": "100m"}, "limits": limits},
                "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                "volumeMounts": [{"name": f"claim-{n}", "mountPath": path} for n, (_, path) in enumerate(claims)],
            }
        ],
        "volumes": [
            {"name": f"claim-{n}", "persistentVolumeClaim": {"claimName": claim}} for n, (claim, _) in enumerate(claims)
        ],
    }
    labels = {"pipelines.kubeflow.org/v2_component": "true", "pipeline/runid": "run-1"}
    labels |= told.get("podMetadata", {}).get("labels", {})
    meta = {"name": name, "namespace": "kubeflow", "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": body}


def executor_input(spec: dict[str, Any], task: str, out: str) -> dict[str, Any]:
    """What Kubeflow's launcher tells a task: its parameters, and where its artifacts are and shall be."""
    given = spec["components"]["comp-exit-handler-1"]["dag"]["tasks"][task]["inputs"]
    values, found = {}, {}
    for name, source in given.get("parameters", {}).items():
        # What another task gives is a hash, of which these tests need none.
        values[name] = source["runtimeValue"]["constant"] if "runtimeValue" in source else "0" * 32
    for name, source in given.get("artifacts", {}).items():
        producer = source["taskOutputArtifact"]["producerTask"]
        found[name] = {"artifacts": [{"name": name, "uri": f"{FOLDER}/{producer}/{name}", "type": {}, "metadata": {}}]}
    made = spec["components"][f"comp-{task}"].get("outputDefinitions", {})
    outputs = {
        name: {
            "artifacts": [{"name": name, "uri": f"{FOLDER}/{out}/{name}", "type": one["artifactType"], "metadata": {}}]
        }
        for name, one in made.get("artifacts", {}).items()
    }
    parameters = {name: {"outputFile": f"{FOLDER}/{out}/{name}"} for name in made.get("parameters", {})}
    return {
        "inputs": {"parameterValues": values, "artifacts": found},
        "outputs": {
            "parameters": parameters,
            "artifacts": outputs,
            "outputFile": f"{FOLDER}/{out}/executor_output.json",
        },
    }


def output(desk: Any, task: str) -> str:
    """What a task gave."""
    return str(json.loads(desk("cat", f"{FOLDER}/{task}/executor_output.json"))["parameterValues"]["Output"])


def after_epoch(kubernetes: Kubernetes, name: str, epoch: int) -> None:
    """Waits until a training has told of this epoch or of a later one."""

    def there() -> bool:
        log = kubernetes.log(SPACE, name)
        assert kubernetes.phase(SPACE, name) in ("Pending", "Running"), log
        return any(int(told) >= epoch for told in re.findall(r"epoch (\d+)/", log))

    kubernetes.wait(there, 600)


def kill(kubernetes: Kubernetes, name: str, word: str) -> None:
    """Ends the processes of a pod that have a word among their arguments; the container may end before it says so."""
    kubernetes("exec", name, f"--namespace={SPACE}", "--", "python", "-c", KILL, word, check=False)


def reached(
    kubernetes: Kubernetes, name: str, namespace: str, labels: Mapping[str, str], targets: Mapping[str, tuple[str, int]]
) -> set[str]:
    """Which targets (name -> host, port) a pod with these labels reaches, tried from inside."""
    body = pod(PARAMS, "download", f"probe-{name}")
    body["metadata"] |= {"namespace": namespace, "labels": dict(labels)}
    arguments = [f"{target}|{host}|{port}" for target, (host, port) in targets.items()]
    (container,) = body["spec"]["containers"]
    container |= {"command": ["python", "-c", PROBE, *arguments], "args": [], "volumeMounts": [], "env": []}
    container["image"] = "segmodels-mlflow:0.1.0"
    body["spec"] |= {"volumes": [], "serviceAccountName": "default"}
    limits = {"cpu": "500m", "memory": "256Mi", "ephemeral-storage": "64Mi"}
    container["resources"] = {"requests": limits, "limits": limits}
    made = kubernetes.anew(body)
    kubernetes.ended(namespace, made, 180)
    lines = kubernetes.log(namespace, made).splitlines()
    assert len(lines) == len(targets), lines
    kubernetes.delete("pod", made, f"--namespace={namespace}")
    return {line.split()[1] for line in lines if line.startswith("reached")}
