"""On which nodes pods run: tolerations and preferences, and the pods of a training on several nodes."""

from __future__ import annotations

from typing import Any

from components.params import Resources

# Kueue reads it; Kubeflow Pipelines sets no PriorityClass of Kubernetes.
PRIORITY_LABEL = "kueue.x-k8s.io/priority-class"
# By it infra/k8s/overlays/nodes says whom the pods of a training on several nodes may talk to.
NODES_LABEL = {"app.kubernetes.io/name": "segmodels-nodes"}
# Of a preference among nodes; 100 is the strongest.
WEIGHT = 100
# What providers put on nodes that may be taken away: (label, value, whether it is a taint, too).
SPOT = (
    ("cloud.google.com/gke-spot", "true", True),
    ("kubernetes.azure.com/scalesetpriority", "spot", True),
    ("eks.amazonaws.com/capacityType", "SPOT", False),
    ("karpenter.sh/capacity-type", "spot", False),
)


def tolerations(needs: Resources) -> list[dict[str, Any]]:
    """Return the taints that a pod accepts: those named, that of its GPUs, and those of spot nodes where these are
    welcome.
    """
    accepted = [one.model_dump(exclude_none=True) for one in needs.tolerations]
    if needs.gpu:
        accepted.append({"key": needs.gpu_type, "operator": "Exists", "effect": "NoSchedule"})
    if needs.spot:
        accepted += [
            {"key": label, "operator": "Equal", "value": value, "effect": "NoSchedule"}
            for label, value, tainted in SPOT
            if tainted
        ]
    return accepted


def preferences(needs: Resources) -> list[dict[str, Any]]:
    """Expressions over labels of nodes that are welcome, not demanded: where none is free, another will do."""
    return [{"key": label, "operator": "In", "values": [value]} for label, value, _ in SPOT] if needs.spot else []


def of_trainjob(needs: Resources, *, image: str, claim: str, mounted: str) -> dict[str, Any]:
    """Return the pods of a training on several nodes, as `components.train.trainjob.Nodes` takes them.

    Args:
        needs: What each node needs.
        image: The pods' image.
        claim: Volume claim that all nodes mount.
        mounted: Where.
    """
    amounts = {"cpu": needs.cpu, "memory": needs.memory}
    if needs.gpu:
        amounts[needs.gpu_type] = str(needs.gpu)
    pod: dict[str, Any] = {
        "automountServiceAccountToken": False,
        "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}},
        "tolerations": tolerations(needs),
        "volumes": [
            {"name": "cache", "persistentVolumeClaim": {"claimName": claim}},
            {"name": "shm", "emptyDir": {"medium": "Memory", **({"sizeLimit": needs.shm} if needs.shm else {})}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    if needs.node_selector:
        pod["nodeSelector"] = needs.node_selector
    if needs.spot:
        preferred = [{"weight": WEIGHT, "preference": {"matchExpressions": [one]}} for one in preferences(needs)]
        pod["affinity"] = {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": preferred}}
    if needs.timeout:
        pod["activeDeadlineSeconds"] = needs.timeout_seconds
    container = {
        "image": image,
        "resources": {"requests": amounts, "limits": amounts},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "cache", "mountPath": mounted},
            {"name": "shm", "mountPath": "/dev/shm"},
            {"name": "tmp", "mountPath": "/tmp"},
        ],
    }
    return {
        "count": needs.nodes,
        "processes": max(1, needs.gpu),
        "pod": pod,
        "container": container,
        "labels": {**NODES_LABEL, **({PRIORITY_LABEL: needs.priority} if needs.priority else {})},
    }
