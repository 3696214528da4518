"""The doctor on a real Kubernetes: what it says of a cluster as Kubeflow leaves it, and once it is mended."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.__main__ import main
from pipeline.doctor import PATCH
from tests.cluster.kubernetes import ROOT, Kubernetes
from tests.servers import kubeflow

# As Kubeflow Pipelines 2.17.0 installs it.
DEFAULTS = """
spec:
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""
STORE = """
archiveLogs: true
s3:
  endpoint: "seaweedfs.kubeflow.svc:9000"
  bucket: "mlpipeline"
  accessKeySecret: {name: mlpipeline-minio-artifact, key: accesskey}
"""


def deployment(account: str) -> dict[str, object]:
    """Kubeflow's API server by name and settings alone."""
    labels = {"app": "ml-pipeline"}
    container = {"name": "ml-pipeline-api-server", "image": "ghcr.io/kubeflow/kfp-api-server:2.17.0"}
    env = [{"name": "DEFAULTPIPELINERUNNERSERVICEACCOUNT", "value": account}]
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{**container, "env": env}]}}
    spec = {"replicas": 0, "selector": {"matchLabels": labels}, "template": template}
    meta = {"name": "ml-pipeline", "namespace": "kubeflow"}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta, "spec": spec}


def config() -> dict[str, object]:
    meta = {"name": "workflow-controller-configmap", "namespace": "kubeflow"}
    data = {"workflowDefaults": DEFAULTS, "artifactRepository": STORE}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta, "data": data}


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    (tmp_path / "params.yaml").write_text("models: {unet: {}}\nresources: {default: {cpu: '1', memory: 1Gi, gpu: 0}}\n")
    return tmp_path / "params.yaml"


@pytest.fixture
def asked(deployed: Kubernetes, settings: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    monkeypatch.setenv("KUBECONFIG", deployed.config)
    with kubeflow.serving() as server:
        command = ["doctor", "--host", server.url, "--params", str(settings), "--image", "segmodels:0.1.0"]
        command += ["--tracking-uri", "http://mlflow.mlflow:5000", "--cache-claim", "segmodels-cache"]
        yield [*command, "--state", "s3://segmodels/states"]


def marks(text: str) -> dict[str, str]:
    """What each line is about -> its mark."""
    return {line[5:].partition(": ")[0]: line[:4].strip() for line in text.splitlines()}


def test_what_is_wrong_is_said_with_what_to_do_and_then_all_is_well(deployed: Kubernetes, asked: list[str], capsys):
    deployed("delete", "secret", "mlpipeline-minio-artifact", "--namespace=kubeflow", "--ignore-not-found")
    deployed.apply(config(), deployment("pipeline-runner"))
    assert main([*asked, "--secret", "nobodys"]) == 1
    said = capsys.readouterr()
    found = marks(said.out)
    bad = {what for what, mark in found.items() if mark == "bad"}
    assert {"what is tried again", "secret kubeflow/mlpipeline-minio-artifact"} <= bad
    assert {"service account kubeflow/segmodels", "secret kubeflow/nobodys"} <= bad
    assert "MLflow at http" in " ".join(bad), said.out  # without credentials it answers 401
    assert PATCH in said.out and "error: " in said.err

    subprocess.run(["bash", "-c", PATCH], cwd=ROOT, env=deployed.environment, check=True, capture_output=True)
    deployed.apply(deployment("segmodels"))
    keys = ["--from-literal=accesskey=a", "--from-literal=secretkey=b", "--namespace=kubeflow"]
    deployed("create", "secret", "generic", "mlpipeline-minio-artifact", *keys, check=False)
    assert main([*asked, "--secret", "segmodels"]) == 0
    said = capsys.readouterr()
    found = marks(said.out)
    assert set(found.values()) == {"ok", "-"}, said.out
    kinds = {"Kubeflow Trainer": "trainjobs.trainer.kubeflow.org", "Kueue": "workloads.kueue.x-k8s.io"}
    missing = {what for what, kind in kinds.items() if not deployed.exists("crd", kind)}
    assert {what for what, mark in found.items() if mark == "-"} == missing
    assert "s3://segmodels, from a pod" in found
    left = deployed.get("pods", "--namespace=kubeflow", "--selector=app.kubernetes.io/name=segmodels-doctor")["items"]
    assert all("deletionTimestamp" in pod["metadata"] for pod in left)


def test_an_image_that_cannot_be_pulled_is_named(deployed: Kubernetes, asked: list[str], capsys):
    command = [argument if argument != "segmodels:0.1.0" else "localhost/no-such-image:7" for argument in asked]
    assert main([*command, "--secret", "segmodels"]) == 1
    (line,) = (one for one in capsys.readouterr().out.splitlines() if "no-such-image" in one)
    assert line.startswith("bad  image localhost/no-such-image:7: ErrImage") or "ImagePull" in line
