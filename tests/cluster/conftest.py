"""A Kubernetes with our local overlay: `KUBECONFIG` names it, and it holds nothing that is missed.

The images have to be there already (docs/cluster.md, step 2). What the overlay takes from a registry can be replaced by
what was loaded: `SEGMODELS_CLUSTER_IMAGES="docker.io/library/postgres=NAME:TAG …"`.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.nodes import NODES_LABEL
from tests.cluster import steps
from tests.cluster.kubernetes import ROOT, Kubernetes

NAMESPACES = ("kubeflow", "mlflow", "segmodels")
ACCOUNT = """\
kubectl -n {namespace} get secret {secret} -o json \\
    | kubectl -n mlflow exec -i deploy/mlflow -c mlflow -- python -c "$(cat infra/k8s/mlflow_user.py)"
"""
MARK = {"segmodels/test": "true"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.cluster)
            item.add_marker(pytest.mark.timeout(1800))
            item.add_marker(pytest.mark.xdist_group("cluster"))


@pytest.fixture(scope="session")
def kubernetes() -> Kubernetes:
    """The cluster."""
    config = os.environ.get("SEGMODELS_CLUSTER")
    if not config:
        pytest.skip("SEGMODELS_CLUSTER names no kubeconfig of a cluster for tests (make test-cluster)")
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not installed")
    return Kubernetes(config)


@pytest.fixture(scope="session")
def overlay(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The local overlay with the images that were loaded."""
    folder = tmp_path_factory.mktemp("overlay")
    images = []
    for given in os.environ.get("SEGMODELS_CLUSTER_IMAGES", "").split():
        name, _, other = given.partition("=")
        new, _, tag = other.rpartition(":")
        images.append({"name": name, "newName": new, "newTag": tag})
    local = os.path.relpath(ROOT / "infra/k8s/overlays/local", folder.resolve())
    content = {"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", "resources": [local]}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump({**content, "images": images}))
    return folder


def names_from_the_node(namespace: str, selector: Mapping[str, str]) -> dict[str, Any]:
    """Where no pod answers for names, but the node does: docs/cluster.md says so, too."""
    ports = [{"protocol": protocol, "port": 53} for protocol in ("UDP", "TCP")]
    egress = [{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}], "ports": ports}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": "-".join(["names-from-the-node", *selector.values()]), "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": selector}, "policyTypes": ["Egress"], "egress": egress},
    }


@pytest.fixture(scope="session")
def deployed(kubernetes: Kubernetes, overlay: Path) -> Iterator[Kubernetes]:
    """The cluster with MLflow, its stores and the server, made as docs/cluster.md says, but for Kubeflow itself."""
    for name in NAMESPACES:
        if kubernetes.exists("namespace", name):
            labels = kubernetes.get("namespace", name)["metadata"]["labels"]
            if MARK.items() <= labels.items():
                continue
            pytest.fail(f"namespace {name} is there and not of these tests: take a cluster that holds nothing")
        kubernetes("create", "namespace", name)
        kubernetes("label", "namespace", name, "segmodels/test=true")
    done = kubernetes("version")  # what it runs on is in the report of a failure
    print(done.stdout)

    subprocess.run([ROOT / "infra/k8s/overlays/local/secrets"], check=True, env=kubernetes.environment)
    if not kubernetes.get("pods", "--namespace=kube-system", "--selector=k8s-app=kube-dns")["items"]:
        # In Kubeflow's namespace for our pods alone: those that no other policy selects stay free.
        ours = ({"pipelines.kubeflow.org/v2_component": "true"}, NODES_LABEL)
        kubernetes.apply(*(names_from_the_node(name, {}) for name in ("mlflow", "segmodels")))
        kubernetes.apply(*(names_from_the_node("kubeflow", selector) for selector in ours))
    kubernetes("apply", "--server-side", "--force-conflicts", "--kustomize", str(overlay))
    for place in ("mlflow statefulset/postgres", "mlflow statefulset/s3", "mlflow deployment/mlflow"):
        namespace, what = place.split()
        kubernetes("rollout", "status", what, f"--namespace={namespace}", "--timeout=600s", timeout=660)
    for namespace, secret in (("kubeflow", "segmodels"), ("segmodels", "serving")):
        command = ["bash", "-euo", "pipefail", "-c", ACCOUNT.format(namespace=namespace, secret=secret)]
        done = subprocess.run(
            command, cwd=ROOT, env=kubernetes.environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
    yield kubernetes
    if os.environ.get("SEGMODELS_CLUSTER_KEEP") != "1":
        for name in NAMESPACES:
            kubernetes("delete", "namespace", name, "--wait=false", check=False)


@pytest.fixture(scope="session")
def desk(deployed: Kubernetes) -> Iterator[Any]:
    """A way to what lies on the volume: runs a command in a pod that mounts it."""
    body = steps.pod(steps.PARAMS, "download", "desk")
    body["metadata"]["labels"] = {"segmodels/desk": "true"}
    (container,) = body["spec"]["containers"]
    container |= {"command": ["sleep", "infinity"], "args": []}
    deployed.anew(body)
    deployed.wait(lambda: deployed.phase(steps.SPACE, "desk") == "Running")
    yield lambda *command: deployed("exec", "desk", f"--namespace={steps.SPACE}", "--", *command).stdout
    deployed.delete("pod", "desk", f"--namespace={steps.SPACE}")


@pytest.fixture(scope="session")
def data(deployed: Kubernetes, desk: Any) -> str:
    """What the task `download` made in its pod."""
    desk("sh", "-c", f"rm -rf {steps.FOLDER} /cache/segmodels /cache/trainings; mkdir -p {steps.FOLDER}")
    name = deployed.anew(steps.pod(steps.PARAMS, "download", "download"))
    assert deployed.ended(steps.SPACE, name) == "Succeeded", deployed.log(steps.SPACE, name)
    return steps.output(desk, "download")
