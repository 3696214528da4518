"""What Argo's controller tries again, with Kubeflow's settings and with ours; skipped where the cluster has no Argo.

The workflows have the templates that Kubeflow Pipelines 2.17.0 makes of a pipeline (names, inputs, strategies), and
small commands in place of its driver and launcher.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from tests.cluster.kubernetes import ROOT, Kubernetes
from tests.cluster.steps import SPACE

SETTINGS = "workflow-controller-configmap"
# Kubeflow Pipelines 2.17.0's own `workflowDefaults`.
KUBEFLOWS = """\
spec:
  templateDefaults:
    retryStrategy:
      limit: '2'
      retryPolicy: OnError
"""
KILLED = ["sh", "-c", "kill -9 $$"]
BACKOFF = ("retry-max-count", "retry-backoff-duration", "retry-backoff-factor", "retry-backoff-max-duration")


@pytest.fixture(scope="module")
def argo(deployed: Kubernetes) -> Iterator[Kubernetes]:
    """The cluster with Argo in Kubeflow's namespace; its settings are put back."""
    if not deployed.exists("configmap", SETTINGS, f"--namespace={SPACE}"):
        pytest.skip("this cluster has no Argo in Kubeflow's namespace")
    before = deployed.get("configmap", SETTINGS, f"--namespace={SPACE}")["data"]
    configure(deployed, artifactRepository="")  # no store: pods would fail for their logs
    yield deployed
    configure(deployed, **{name: before.get(name, "") for name in ("artifactRepository", "workflowDefaults")})


def configure(kubernetes: Kubernetes, **data: str) -> None:
    patch = json.dumps({"data": data})
    kubernetes("patch", "configmap", SETTINGS, f"--namespace={SPACE}", "--type=merge", f"--patch={patch}")


def ours(kubernetes: Kubernetes) -> None:
    """As docs/cluster.md says it."""
    patch = ROOT / "infra/k8s/kfp/retry.yaml"
    kubernetes("patch", "configmap", SETTINGS, f"--namespace={SPACE}", "--patch-file", str(patch))


def template(name: str, inputs: tuple[str, ...], **more: Any) -> dict[str, Any]:
    defaults = {"cached-decision": "false"}
    parameters = [{"name": one, **({"default": defaults[one]} if one in defaults else {})} for one in inputs]
    return {"name": name, "inputs": {"parameters": parameters}, **more}


def container(command: list[str]) -> dict[str, Any]:
    limits = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    return {"container": {"image": "segmodels:0.1.0", "command": command, "securityContext": limits}}


def passed(names: tuple[str, ...]) -> list[dict[str, str]]:
    return [{"name": name, "value": f"{{{{inputs.parameters.{name}}}}}"} for name in names]


def workflow(name: str, task: str, command: list[str], retries: int = 0) -> dict[str, Any]:
    """A run of one task.

    Args:
        name: Of the workflow.
        task: `driver`; `plain`, which asks for no retries; or `retried`.
        command: What the pod runs.
        retries: How often the pipeline asks for it to be tried again.
    """
    values = {"cached-decision": "false"} | dict(zip(BACKOFF, (str(retries), "1", "1", "3600"), strict=True))
    kinds = {
        "driver": ("system-container-driver", ()),
        "plain": ("system-container-executor", ("cached-decision",)),
        "retried": ("retry-system-container-executor", ("cached-decision", *BACKOFF)),
    }
    chosen, names = kinds[task]
    inner = {
        "system-container-executor": ("system-container-impl", ()),
        "retry-system-container-executor": ("retry-system-container-impl", BACKOFF),
    }
    strategy = {
        "limit": "{{inputs.parameters.retry-max-count}}",
        "backoff": {
            "duration": "{{inputs.parameters.retry-backoff-duration}}",
            "factor": "{{inputs.parameters.retry-backoff-factor}}",
            "maxDuration": "{{inputs.parameters.retry-backoff-max-duration}}",
        },
    }
    templates = [
        template("system-container-driver", (), **container(command)),
        template("system-container-impl", (), **container(command)),
        template("retry-system-container-impl", BACKOFF, retryStrategy=strategy, **container(command)),
    ]
    for outer, (impl, given) in inner.items():
        step = {
            "name": "executor",
            "template": impl,
            "when": "{{inputs.parameters.cached-decision}} != true",
            "arguments": {"parameters": passed(given)},
        }
        templates.append(template(outer, ("cached-decision", *given), dag={"tasks": [step]}))
    first = {
        "name": "task",
        "template": chosen,
        "arguments": {"parameters": [{"name": one, "value": values[one]} for one in names]},
    }
    templates.append(template("entrypoint", (), dag={"tasks": [first]}))
    return {
        "apiVersion": "argoproj.io/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "entrypoint": "entrypoint",
            "serviceAccountName": "segmodels",
            "podMetadata": {"labels": {"pipelines.kubeflow.org/v2_component": "true"}},
            "securityContext": {"runAsNonRoot": True, "runAsUser": 10001, "seccompProfile": {"type": "RuntimeDefault"}},
            "templates": templates,
        },
    }


def pods(kubernetes: Kubernetes, name: str) -> list[Any]:
    """The attempts, as the workflow tells them."""
    status = kubernetes.get("workflow", name, f"--namespace={SPACE}").get("status", {})
    return [node for node in status.get("nodes", {}).values() if node["type"] == "Pod"]


def ended(kubernetes: Kubernetes, name: str) -> tuple[str, int]:
    """The phase in which a run ends, and the number of attempts that it took."""

    def phase() -> str:
        status = kubernetes.get("workflow", name, f"--namespace={SPACE}").get("status", {})
        return str(status.get("phase")) if status.get("phase") in ("Succeeded", "Failed", "Error") else ""

    return str(kubernetes.wait(phase)), len(pods(kubernetes, name))


def test_with_kubeflows_own_settings_what_is_killed_is_not_tried_again(argo: Kubernetes):
    configure(argo, workflowDefaults=KUBEFLOWS)
    assert ended(argo, argo.anew(workflow("kubeflows", "retried", KILLED, 2))) == ("Failed", 1)


@pytest.mark.parametrize(("task", "retries", "attempts"), [("retried", 2, 3), ("plain", 0, 1), ("driver", 0, 1)])
def test_with_ours_what_is_killed_is_tried_again_where_the_pipeline_asks_for_it(
    argo: Kubernetes, task: str, retries: int, attempts: int
):
    ours(argo)
    assert ended(argo, argo.anew(workflow(f"ours-{task}", task, KILLED, retries))) == ("Failed", attempts)


def runs(argo: Kubernetes, name: str) -> bool:
    return [node["phase"] for node in pods(argo, name)] == ["Running"]


def test_a_pod_that_is_lost_is_tried_again_whatever_it_is(argo: Kubernetes):
    ours(argo)
    kinds = {"retried": 2, "plain": 0, "driver": 0}
    names = []
    for task, count in kinds.items():
        name = argo.anew(workflow(f"lost-{task}", task, ["sleep", "40"], count))
        names.append(name)
        # What is gone before Argo has seen it run is made again, as the same attempt.
        argo.wait(partial(runs, argo, name))
        (pod,) = argo.get("pods", f"--namespace={SPACE}", f"--selector=workflows.argoproj.io/workflow={name}")["items"]
        # As when its node has gone for good: nobody says how it ended.
        argo("delete", "pod", pod["metadata"]["name"], f"--namespace={SPACE}", "--force", "--grace-period=0")
    for name in names:
        assert ended(argo, name) == ("Succeeded", 2)
        assert sorted(node["phase"] for node in pods(argo, name)) == ["Error", "Succeeded"]
