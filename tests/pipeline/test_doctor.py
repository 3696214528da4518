"""What the doctor says without a Kubernetes; what it finds in one is in tests/cluster."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from pipeline import doctor
from pipeline.__main__ import main
from tests.samples import KUBEFLOW, needs_kubeflow
from tests.servers import kubeflow

ROOT = Path(__file__).resolve().parents[2]
OURS = yaml.safe_load((ROOT / "infra/k8s/kfp/retry.yaml").read_text())["data"]


def defaults(**strategy: str) -> dict[str, str]:
    return {"workflowDefaults": yaml.safe_dump({"spec": {"templateDefaults": {"retryStrategy": strategy}}})}


@needs_kubeflow
def test_kubeflows_own_configuration_never_tries_a_failed_task_again():
    recorded = json.loads((KUBEFLOW / "controller-configmap.json").read_text())["data"]
    found = doctor.retries(recorded)
    assert found.mark == "bad" and "nothing that crashes, is killed or runs out of memory" in found.said
    assert "--patch-file infra/k8s/kfp/retry.yaml" in found.said
    # What ours replaces it with keeps the rest.
    mine, theirs = (yaml.safe_load(one["workflowDefaults"])["spec"] for one in (OURS, recorded))
    assert mine["ttlStrategy"] == theirs["ttlStrategy"]
    assert mine["templateDefaults"]["retryStrategy"]["limit"] == theirs["templateDefaults"]["retryStrategy"]["limit"]


@pytest.mark.parametrize(
    ("config", "mark", "said"),
    [
        (OURS, "ok", "failed tasks of this pipeline, and every pod that was lost"),
        (defaults(limit="0", retryPolicy="Always"), "ok", "none of Kubeflow's own pods"),
        (defaults(limit="2", retryPolicy="OnError"), "bad", "nothing that crashes"),
        ({}, "bad", "no task whose pod is deleted"),
        (defaults(limit="2", retryPolicy="Always"), "?", "by a rule of this cluster's own"),
        ({"workflowDefaults": "a: ["}, "bad", "cannot be read"),
    ],
)
def test_each_rule_of_retries_is_known(config: dict[str, str], mark: str, said: str):
    found = doctor.retries(config)
    assert found.mark == mark and said in found.said


def test_without_a_kubernetes_it_says_what_it_could_not_see(project, monkeypatch, capsys, tmp_path):
    project("tiny")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with kubeflow.serving() as server:
        assert main(["doctor", "--host", server.url]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok   Kubeflow Pipelines: answers at http://127.0.0.1:")
    assert lines[1] == (
        "?    Kubernetes: no kubeconfig here (KUBECONFIG, or ~/.kube/config); the rest is not looked at"
    )
    assert main(["doctor", "--host", server.url]) == 1
    said = capsys.readouterr()
    assert said.out.startswith("bad  Kubeflow Pipelines: ") and said.err.startswith("error: 1 of these would make")
