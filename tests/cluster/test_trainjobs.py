"""A training on two nodes under the controllers of Kubeflow Trainer and JobSet; skipped where the cluster has none."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.params import Params
from pipeline.nodes import NODES_LABEL
from tests.cluster import steps
from tests.cluster.kubernetes import ROOT, Kubernetes
from tests.cluster.steps import FOLDER, SETTINGS, SPACE, after_epoch, output

NODES = Params.parse(
    SETTINGS
    | {
        "train": {"epochs": 24, "batch_size": 2, "precision": "32"},
        "resources": {"default": {"cpu": "1", "memory": "2Gi", "gpu": 0, "nodes": 2}},
    },
    "settings",
)
KINDS = ("trainjobs.trainer.kubeflow.org", "trainingruntimes.trainer.kubeflow.org", "jobsets.jobset.x-k8s.io")


@pytest.fixture(scope="module")
def trainer(deployed: Kubernetes) -> Kubernetes:
    """The cluster with Kubeflow Trainer and the rights to use it."""
    if not deployed.exists("crd", KINDS[0]):
        pytest.skip("this cluster has no Kubeflow Trainer")
    deployed("apply", "--server-side", "--force-conflicts", "--kustomize", str(ROOT / "infra/k8s/overlays/nodes"))
    return deployed


def training(name: str) -> dict[str, Any]:
    """The pod that starts a TrainJob and follows it; with the account's token, as Kubeflow's pods have it."""
    body = steps.pod(NODES, "train-unet", name, out=name.rpartition("-again")[0] or name)
    body["spec"]["automountServiceAccountToken"] = True
    return body


def pods(kubernetes: Kubernetes) -> dict[str, str]:
    """Name -> phase of the pods that JobSet has made."""
    listed = kubernetes.get("pods", f"--namespace={SPACE}", "--selector=jobset.sigs.k8s.io/jobset-name")["items"]
    return {pod["metadata"]["name"]: pod["status"]["phase"] for pod in listed}


def left(kubernetes: Kubernetes) -> list[str]:
    """What is there of TrainJobs."""
    found = [item for kind in KINDS for item in kubernetes.get(kind, f"--namespace={SPACE}")["items"]]
    return [item["metadata"]["name"] for item in found] + list(pods(kubernetes))


@pytest.fixture(scope="module")
def undisturbed(trainer: Kubernetes, data: str, desk: Any) -> str:
    """The hash of the weights of a training on two nodes that nothing stopped."""
    name = trainer.anew(training("two-nodes"))
    after_epoch(trainer, name, 1)
    assert len(pods(trainer)) == 2
    assert trainer.ended(SPACE, name, 900) == "Succeeded", trainer.log(SPACE, name)
    return output(desk, "two-nodes")


def test_two_nodes_train_under_the_real_controllers_and_nothing_is_left(
    trainer: Kubernetes, undisturbed: str, desk: Any
):
    assert len(undisturbed) == 64
    log = trainer.log(SPACE, "two-nodes")
    assert "2 nodes of 1 processes" in log and "epoch 24/24" in log
    described = json.loads(desk("cat", f"{FOLDER}/two-nodes/model/model.json"))
    assert described["architecture"] == "unet"
    trainer.wait(lambda: not left(trainer), 120)


def test_a_node_that_is_killed_takes_the_other_along_and_both_go_on(trainer: Kubernetes, undisturbed: str, desk: Any):
    name = trainer.anew(training("killed-node"))
    after_epoch(trainer, name, 2)
    first = set(pods(trainer))
    victim = next(pod for pod in first if "-node-0-1-" in pod)
    steps.kill(trainer, victim, "segmodels.training.worker")
    assert trainer.ended(SPACE, name, 900) == "Succeeded", trainer.log(SPACE, name)
    assert "goes on after epoch" in trainer.log(SPACE, name)
    assert output(desk, "killed-node") == undisturbed
    trainer.wait(lambda: not left(trainer), 120)


def test_the_next_attempt_ends_the_nodes_of_one_whose_pod_went_away_and_goes_on(
    trainer: Kubernetes, undisturbed: str, desk: Any
):
    name = trainer.anew(training("stopped"))
    after_epoch(trainer, name, 2)
    first = set(pods(trainer))
    # Its process is gone before it could remove anything: only the next attempt does.
    trainer("delete", "pod", name, f"--namespace={SPACE}", "--force", "--grace-period=0")
    again = trainer.anew(training("stopped-again"))
    said = ("nodes of", "has finished this training")
    trainer.wait(lambda: any(words in trainer.log(SPACE, again) for words in said))
    assert not first & set(pods(trainer)), "never do two write the same state"
    assert trainer.ended(SPACE, again, 900) == "Succeeded", trainer.log(SPACE, again)
    log = trainer.log(SPACE, again)
    assert "an earlier attempt of this training is removed first" in log
    # It may have come to its end in the meantime.
    assert "goes on after epoch" in log or "an earlier attempt has finished this training" in log
    assert output(desk, "stopped") == undisturbed


def test_nodes_talk_to_each_other_alone(trainer: Kubernetes, desk: Any):
    desk("sh", "-c", "python -m http.server 8099 > /tmp/asked 2>&1 &")
    there = {"desk": (trainer.pod(SPACE, "desk")["status"]["podIP"], 8099)}
    assert steps.reached(trainer, "stranger", SPACE, {}, there) == {"desk"}
    assert steps.reached(trainer, "node", SPACE, NODES_LABEL, there) == set()
