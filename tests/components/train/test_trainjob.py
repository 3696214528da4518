"""A training on two nodes by a TrainJob: its processes are real, the cluster around them is as small as it can be."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from components.download import step as download
from components.errors import StepError
from components.lineage import collect
from components.params import Params, Resources
from components.train import step, trainjob
from components.train.trainjob import Nodes, TrainJobLauncher
from pipeline import nodes
from tests.servers import ports
from tests.servers.cluster import Cluster, serving
from tests.servers.trainer_types import TYPES, unknown

SETTINGS = {
    "seed": 3,
    "data": {"source": "streets", "streets": {"train": 16, "val": 2, "test": 1, "height": 48, "width": 64}},
    # What a process averages over its part of a batch is that of the whole where all pixels count the same.
    "train": {
        "epochs": 4,
        "batch_size": 2,
        "precision": "32",
        "accelerator": "cpu",
        "optimizer": "sgd",
        "lr": 0.001,
        "class_weights": "none",
        "augment": {"scale": [1.0, 1.0]},
    },
    "models": {"unet": {"options": {"width": 2, "dropout": 0.0}}},
}
PARAMS = Params.parse(SETTINGS)
NEEDS = Resources(cpu="1", memory="1Gi", gpu=0, nodes=2, priority="night", node_selector={"zone": "a"}, spot=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "data"
    download.run(PARAMS, out=folder)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    from kubernetes.client import ApiClient, Configuration

    monkeypatch.setattr(trainjob, "POLL_SECONDS", 0.1)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "volume"))
    with serving(tmp_path) as running:
        monkeypatch.setattr(trainjob, "_in_cluster", lambda: ApiClient(Configuration(host=running.url)))
        monkeypatch.setattr(trainjob, "NAMESPACE", tmp_path / "namespace")
        (tmp_path / "namespace").write_text("kubeflow")
        yield running


def train(data: Path, out: Path, monkeypatch: pytest.MonkeyPatch, on_epoch: Any = None) -> list[Mapping[str, Any]]:
    """The step, told as the pipeline tells it."""
    wanted = nodes.of_trainjob(NEEDS, image="segmodels@sha256:0", claim="cache", mounted="/cache")
    monkeypatch.setenv("SEGMODELS_TRAINJOB", json.dumps(wanted))
    rows: list[Mapping[str, Any]] = []

    def tell(row: Mapping[str, Any]) -> None:
        rows.append(row)
        if on_epoch:
            on_epoch(row)

    step.run(PARAMS, "unet", data=data, out=out, lineage=collect(PARAMS, data), on_epoch=tell)
    return rows


def losses(folder: Path) -> list[float]:
    with (folder / "history.csv").open() as file:
        return [float(row["train_loss"]) for row in csv.DictReader(file)]


def test_two_nodes_train_as_one_with_the_doubled_batch_and_nothing_is_left(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = train(data, tmp_path / "two", monkeypatch)
    doubled = Params.parse({**SETTINGS, "train": {**SETTINGS["train"], "batch_size": 4}})  # type: ignore[dict-item]
    monkeypatch.delenv("SEGMODELS_TRAINJOB")
    step.run(doubled, "unet", data=data, out=tmp_path / "one", lineage=collect(doubled, data))
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-3)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert {plural for plural, _ in cluster.deleted} == {"trainjobs", "trainingruntimes"}
    assert cluster.stuck == []
    assert not (tmp_path / "volume/trainjobs").exists() or not any((tmp_path / "volume/trainjobs").iterdir())
    printed = capsys.readouterr().out
    assert "2 nodes of 1 processes" in printed and "unet epoch 1/4" in printed


def test_a_step_that_is_told_to_stop_ends_its_nodes_and_the_next_goes_on(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(row: Mapping[str, Any]) -> None:
        if row["epoch"] == 1:
            threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGTERM)).start()

    with pytest.raises(StepError, match="the state is saved") as told:
        train(data, tmp_path / "model", monkeypatch, on_epoch=stop)
    assert told.value.code == 143
    for pod in cluster.pods:
        pod.wait(timeout=60)
    rows = train(data, tmp_path / "model", monkeypatch)
    assert rows[0]["epoch"] > 1 and rows[-1]["epoch"] == 4


def test_what_an_earlier_attempt_has_left_is_ended_before_anything_is_started(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    train(data, tmp_path / "first", monkeypatch)
    _, name = next(key for key in cluster.objects if key[0] == "trainjobs")
    # Its step went away without a word, and its nodes are still at work.
    with subprocess.Popen(["sleep", "600"]) as pod:
        cluster.pods = [pod]
        for plural in ("trainjobs", "trainingruntimes"):
            cluster.objects[plural, name] = {"metadata": {"name": name, "uid": "of an earlier attempt"}}
        cluster.deleted = []
        started: list[int | None] = []
        real = cluster.create

        def create(*made: Any) -> Any:
            started.append(pod.poll())
            return real(*made)

        monkeypatch.setattr(cluster, "create", create)
        train(data, tmp_path / "second", monkeypatch)
    assert started == [-signal.SIGTERM] * 2, "its pods are gone before the next are there"
    assert f"TrainJob {name}: an earlier attempt of this training is removed first" in capsys.readouterr().out


def test_what_an_earlier_attempt_has_finished_after_its_step_was_gone_is_taken(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = train(data, tmp_path / "whole", monkeypatch)

    def gone(*arguments: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("segmodels.training.launch.outcome", gone)
        train(data, tmp_path / "model", monkeypatch)
    cluster.objects = {}
    assert train(data, tmp_path / "model", monkeypatch) == whole
    assert cluster.objects == {}, "nothing is trained again"
    assert "an earlier attempt has finished this training" in capsys.readouterr().out
    name = "model.safetensors"
    assert (tmp_path / "model" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    # Other settings are another training.
    changed = {**SETTINGS, "train": {**SETTINGS["train"], "epochs": 5}}  # type: ignore[dict-item]
    monkeypatch.setattr(sys.modules[__name__], "PARAMS", Params.parse(changed))
    assert len(train(data, tmp_path / "other", monkeypatch)) == 5


def test_a_training_that_another_run_has_taken_over_is_left_to_it(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def take_over(row: Mapping[str, Any]) -> None:
        for (plural, _), made in cluster.objects.items():
            made["metadata"]["uid"] = f"another {plural}"

    with pytest.raises(StepError, match=r"TrainJob train-unet-\w+: another run of the same training has taken its"):
        train(data, tmp_path / "model", monkeypatch, on_epoch=take_over)
    assert cluster.deleted == [], "what is another run's stays"


def test_a_cluster_that_refuses_is_told_in_one_sentence(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.refuses = (404, "the server could not find the requested resource")
    with pytest.raises(StepError, match=r"refuses the TrainJob of 2 nodes \(the server could not find .*Trainer, and"):
        train(data, tmp_path / "model", monkeypatch)


def test_a_cluster_that_does_not_answer_is_told_in_one_sentence(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kubernetes.client import ApiClient, Configuration

    nowhere = f"http://127.0.0.1:{ports.free()}"
    monkeypatch.setattr(trainjob, "_in_cluster", lambda: ApiClient(Configuration(host=nowhere)))
    monkeypatch.setattr(trainjob, "AWAY_SECONDS", 0.5)
    with pytest.raises(StepError, match=r"TrainJob train-unet-\w+: Kubernetes does not answer .*; run the step again"):
        train(data, tmp_path / "model", monkeypatch)


def test_what_an_earlier_attempt_has_left_and_does_not_go_is_named(
    cluster: Cluster, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(data, tmp_path / "first", monkeypatch)
    with subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 600 & wait; wait"], start_new_session=True) as pod:
        cluster.pods = [pod]
        monkeypatch.setattr(trainjob, "AWAY_SECONDS", 0.5)
        with pytest.raises(StepError, match=r"does not go away; remove it and its pods: kubectl -n kubeflow delete"):
            train(data, tmp_path / "second", monkeypatch)
        os.killpg(pod.pid, signal.SIGKILL)


def test_outside_a_cluster_it_is_told_what_to_do(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path))
    with pytest.raises(StepError, match=r"set resources.nodes to 1, or submit the pipeline"):
        train(data, tmp_path / "model", monkeypatch)


def test_the_pods_are_placed_as_the_settings_say_and_have_no_rights() -> None:
    wanted = Nodes(**nodes.of_trainjob(NEEDS, image="segmodels@sha256:0", claim="cache", mounted="/cache"))
    made = TrainJobLauncher(wanted, "0.dir", api=object(), namespace="kubeflow").runtime("x", Path("job.json"))  # type: ignore[arg-type]
    (node,) = made["spec"]["template"]["spec"]["replicatedJobs"]
    pod = node["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["nodeSelector"] == {"zone": "a"}
    assert {"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]
    labels = {"kueue.x-k8s.io/priority-class": "night", "app.kubernetes.io/name": "segmodels-nodes"}
    assert made["metadata"]["labels"] == labels == node["template"]["spec"]["template"]["metadata"]["labels"]
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["resources"]["limits"] == container["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert made["spec"]["mlPolicy"] == {"numNodes": 2, "torch": {}}
    job = TrainJobLauncher(wanted, "0.dir", api=object(), namespace="kubeflow").trainjob("x")  # type: ignore[arg-type]
    assert job["spec"]["trainer"] == {"numProcPerNode": 1}
    for version in TYPES:
        assert unknown(version, "trainingruntimes", made) == [] == unknown(version, "trainjobs", job)


@pytest.mark.parametrize("version", TYPES)
def test_a_field_that_trainer_would_prune_is_seen(version: str) -> None:
    """As since 2.2.0 the number of processes in the runtime's policy."""
    runtime = {"spec": {"mlPolicy": {"numNodes": 2, "torch": {"numProcPerNode": 4}}}}
    pruned = unknown(version, "trainingruntimes", runtime)
    assert pruned == ([] if version < "2.2" else ["spec.mlPolicy.torch.numProcPerNode"])
    assert unknown(version, "trainjobs", {"spec": {"trainer": {"numProcPerNode": "auto"}}}) == (
        [] if version < "2.2" else ["spec.trainer.numProcPerNode: 'auto'"]
    )
