"""Pods of tasks on a real Kubernetes, and what happens to them: killed, evicted, without memory, on a full volume."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.params import Params
from pipeline.runs import _words
from tests.cluster import steps
from tests.cluster.kubernetes import Kubernetes
from tests.cluster.steps import PARAMS, SETTINGS, SPACE, after_epoch, output


@pytest.fixture(scope="module")
def undisturbed(deployed: Kubernetes, data: str, desk: Any) -> str:
    """The hash of the weights of a training that nothing stopped."""
    name = deployed.anew(training("undisturbed"))
    assert deployed.ended(SPACE, name, 900) == "Succeeded", deployed.log(SPACE, name)
    return output(desk, "undisturbed")


def training(name: str, params: Params = PARAMS) -> dict[str, Any]:
    """The training's pod; its state goes to the object store, and nothing else is left of it."""
    body = steps.pod(params, "train-unet", name, out=name.rpartition("-again")[0] or name)
    (container,) = body["spec"]["containers"]
    # What a pod keeps for the next one on the same volume is not what is tried here.
    container["env"] = [v for v in container["env"] if v["name"] != "SEGMODELS_CACHE"]
    container["env"].append({"name": "SEGMODELS_CACHE", "value": "/tmp/cache"})
    return body


def test_a_tasks_pod_is_what_the_pipeline_says(deployed: Kubernetes, undisturbed: str):
    assert len(undisturbed) == 64
    pod = deployed.pod(SPACE, "undisturbed")
    (container,) = pod["spec"]["containers"]
    assert pod["status"]["qosClass"] == "Burstable" and container["resources"]["limits"]["memory"] == "3Gi"
    assert pod["metadata"]["labels"]["pipelines.kubeflow.org/v2_component"] == "true"
    assert not any("token" in mount["mountPath"] for mount in container["volumeMounts"])


@pytest.mark.parametrize("how", ["killed", "evicted", "deleted"])
def test_a_training_goes_on_in_another_pod_from_its_state_in_the_store(
    deployed: Kubernetes, undisturbed: str, desk: Any, how: str
):
    name = deployed.anew(training(how))
    after_epoch(deployed, name, 2)
    if how == "killed":
        steps.kill(deployed, name, "kfp.dsl.executor_main")
        assert deployed.ended(SPACE, name) == "Failed"
        (status,) = deployed.pod(SPACE, name)["status"]["containerStatuses"]
        assert status["state"]["terminated"]["exitCode"] == 137
    elif how == "evicted":
        body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name, "namespace": SPACE}}
        path = f"/api/v1/namespaces/{SPACE}/pods/{name}/eviction"
        deployed("create", "--raw", path, "--filename=-", input=json.dumps(body))
    else:
        deployed.delete("pod", name, f"--namespace={SPACE}")
    if how != "killed":
        deployed.wait(lambda: not deployed.exists("pod", name, f"--namespace={SPACE}"), 120)
    # Argo's executor ends with the first of its processes, before the training could save more than its last epoch.
    again = deployed.anew(training(f"{how}-again"))
    assert deployed.ended(SPACE, again, 900) == "Succeeded", deployed.log(SPACE, again)
    log = deployed.log(SPACE, again)
    assert "the training's state was brought from s3://segmodels/states" in log and "goes on after epoch" in log
    assert output(desk, how) == undisturbed


def test_too_little_memory_is_said_and_is_no_success(deployed: Kubernetes, data: str):
    little = Params.parse(SETTINGS | {"resources": {"default": {"cpu": "1", "memory": "192Mi", "gpu": 0}}}, "settings")
    name = deployed.anew(training("little", little))
    assert deployed.ended(SPACE, name) == "Failed"
    (status,) = deployed.pod(SPACE, name)["status"]["containerStatuses"]
    ended = status["state"]["terminated"]
    assert (ended["reason"], ended["exitCode"]) == ("OOMKilled", 137)
    # As Argo tells it.
    assert _words(f"main: {ended['reason']} (exit code {ended['exitCode']})") == "out of memory (OOMKilled)"


def test_a_full_volume_is_one_sentence_that_names_the_file(deployed: Kubernetes, data: str):
    body = training("full")
    (container,) = body["spec"]["containers"]
    body["spec"]["volumes"].append({"name": "small", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})
    container["volumeMounts"].append({"name": "small", "mountPath": "/small"})
    for variable in container["env"]:
        if variable["name"] == "SEGMODELS_CACHE":
            variable["value"] = "/small"
    container["env"] = [v for v in container["env"] if v["name"] != "SEGMODELS_STATE"]
    name = deployed.anew(body)
    assert deployed.ended(SPACE, name) == "Failed"
    log = deployed.log(SPACE, name)
    (line,) = (line for line in log.splitlines() if line.startswith("error: "))
    assert "/small/" in line and "No space left" in line, log


def test_what_may_talk_to_what(deployed: Kubernetes):
    """Tried from inside: a pod with the labels of each, and whom it reaches."""
    targets = {
        "mlflow": ("mlflow.mlflow", 5000),
        "postgres": ("postgres.mlflow", 5432),
        "s3": ("s3.mlflow", 8333),
        "serving": ("serving.segmodels", 8000),
    }
    who = {
        "task": (SPACE, {"pipelines.kubeflow.org/v2_component": "true"}),
        "stranger": (SPACE, {}),
        "served": ("segmodels", {"app.kubernetes.io/name": "serving-probe"}),
    }
    reached = {name: steps.reached(deployed, name, *pod, targets) for name, pod in who.items()}
    assert reached == {"task": {"mlflow", "s3"}, "stranger": set(), "served": set()}
