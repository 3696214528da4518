"""The server of the champion on a real Kubernetes: files come through MLflow, a rollout drops no request."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from components.register import step
from components.registered import RegisteredModel
from components.tracking import THROUGH_MLFLOW, Store
from pipeline.trace import describe
from tests.cluster.kubernetes import Kubernetes
from tests.cluster.test_overlays import secret
from tests.components.conftest import write_results
from tests.segmodels.serving.running import write_model

# Asks again and again, as someone who is let in; ends when a file is there, and says how often it was answered.
ASK = """
import collections, io, json, os, time, urllib.request
import numpy as np
from PIL import Image
buffer = io.BytesIO()
Image.fromarray(np.zeros((60, 80, 3), np.uint8)).save(buffer, "PNG")
seen = collections.Counter()
while not os.path.exists("/tmp/stop"):
    request = urllib.request.Request(
        "http://serving.segmodels:8000/predict", buffer.getvalue(), {"Content-Type": "image/png"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            seen[str(answer.status)] += 1
            answer.read()
    except Exception as error:
        seen[f"{type(error).__name__} {error}"] += 1
    print("asked", flush=True)
print("seen " + json.dumps(seen), flush=True)
"""


def register(results: Any) -> str:
    """Registers the U-Net, whose weights fit; gives its version."""
    folder = results.models["unet"]
    history = (folder / "history.csv").read_bytes()
    write_model(folder, 1)
    (folder / "history.csv").write_bytes(history)
    only: dict[str, Any] = {
        key: value if isinstance(value, Path) else {"unet": value["unet"]} for key, value in results.folders.items()
    }
    done = step.run(results.params, **only, out=Path("outputs/register.json"), lineage=results.lineage)
    return str(done.versions[0].version)


@pytest.fixture(scope="module")
def registered(deployed: Kubernetes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A champion, registered from here as the pipeline's account: MLflow is forwarded, its object store is not."""
    mine = secret(deployed, "kubeflow", "segmodels")
    with pytest.MonkeyPatch.context() as patch, deployed.forwarded("mlflow", "mlflow", 5000) as address:
        results = write_results(tmp_path_factory.mktemp("results") / "repo", patch)
        patch.setenv("MLFLOW_TRACKING_URI", address)
        for key in ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"):
            patch.setenv(key, mine[key])
        for name in THROUGH_MLFLOW:
            patch.delenv(name, raising=False)
        version = register(results)
        # As a person does in MLflow's pages.
        Store(None).set_alias("segmentation", "champion", version)
        yield results


def test_registering_tracing_and_fetching_reach_mlflow_alone(deployed: Kubernetes, registered: Any, tmp_path: Path):
    # The gate now reads what the champion was measured with.
    assert register(registered)
    assert "champion" in describe("models:/segmentation@champion")
    model = RegisteredModel("models:/segmentation@champion", tmp_path)
    assert (model.fetch(model.latest()).folder / "model.safetensors").is_file()


def test_the_server_becomes_ready_and_a_rollout_drops_no_request(deployed: Kubernetes, registered: Any):
    def ready() -> bool:
        pods = deployed.get("pods", "--namespace=segmodels", "--selector=app.kubernetes.io/name=serving")["items"]
        states = [status for pod in pods for status in pod["status"].get("containerStatuses", ())]
        return bool(states) and all(status["ready"] for status in states)

    deployed.wait(ready, 600)
    if not deployed.exists("namespace", "asking"):
        deployed("create", "namespace", "asking")
        deployed("label", "namespace", "asking", "segmodels/predicts=true", "segmodels/test=true")
    limits = {"cpu": "500m", "memory": "512Mi"}
    container: dict[str, Any] = {"name": "main", "image": "segmodels:0.1.0", "command": ["python", "-c", ASK]}
    container["resources"] = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": limits}
    deployed.delete("pod", "asking", "--namespace=asking")
    deployed.wait(lambda: not deployed.exists("pod", "asking", "--namespace=asking"))
    deployed.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "asking", "namespace": "asking"},
            "spec": {"restartPolicy": "Never", "containers": [container]},
        }
    )
    try:
        deployed.wait(lambda: deployed.log("asking", "asking").count("asked") > 5)
        deployed("rollout", "restart", "deployment/serving", "--namespace=segmodels")
        deployed("rollout", "status", "deployment/serving", "--namespace=segmodels", "--timeout=600s", timeout=660)
        # The old pod goes on for what it was asked before.
        deployed.wait(lambda: len(deployed.get("pods", "--namespace=segmodels")["items"]) == 1, 180)
        time.sleep(2)
        deployed("exec", "asking", "--namespace=asking", "--", "touch", "/tmp/stop")
        deployed.ended("asking", "asking")
        (line,) = (one for one in deployed.log("asking", "asking").splitlines() if one.startswith("seen "))
        assert set(json.loads(line.removeprefix("seen "))) == {"200"}, line
        print(line)
    finally:
        if os.environ.get("SEGMODELS_CLUSTER_KEEP") != "1":
            deployed("delete", "namespace", "asking", "--wait=false", check=False)
