"""The fields of Kubeflow Trainer's resources, so that what the API server would prune is an error here.

Read off `manifests/base/crds/trainer.kubeflow.org_{trainjobs,trainingruntimes}.yaml` of github.com/kubeflow/trainer/v2
at v2.0.1, v2.1.0, v2.2.0 and v2.3.0, down to the pod's template; a leaf is the type that the schema has there.
"""

from __future__ import annotations

from typing import Any

ANY = object()  # what is not looked into: metadata, and the pod, which Kubernetes' own schema has
JOB_FIELDS = """
activeDeadlineSeconds backoffLimit backoffLimitPerIndex completionMode completions managedBy manualSelector
maxFailedIndexes parallelism podFailurePolicy podReplacementPolicy selector successPolicy suspend template
ttlSecondsAfterFinished
"""
JOB: dict[str, Any] = dict.fromkeys(JOB_FIELDS.split(), ANY)
JOBSET = {
    "coordinator": ANY, "managedBy": str, "network": ANY, "startupPolicy": ANY, "successPolicy": ANY, "suspend": bool,
    "ttlSecondsAfterFinished": int, "failurePolicy": {"maxRestarts": int, "restartStrategy": str, "rules": ANY},
    "replicatedJobs": [
        {"dependsOn": ANY, "name": str, "replicas": int, "template": {"metadata": ANY, "spec": JOB}}
    ],
}  # fmt: skip
REFERENCE = {"apiGroup": str, "kind": str, "name": str}
TRAINER = {"args": ANY, "command": ANY, "env": ANY, "image": str, "numNodes": int, "resourcesPerNode": ANY}
MPI = {"mpiImplementation": str, "numProcPerNode": int, "runLauncherAsNode": bool, "sshAuthMountPath": str}


def _types(job: dict[str, Any], processes: tuple[type, ...] | type, policies: dict[str, Any]) -> dict[str, Any]:
    runtime = {"mlPolicy": {"numNodes": int, "mpi": MPI, **policies}, "podGroupPolicy": ANY}
    return {
        "trainjobs": {
            "initializer": ANY, "managedBy": str, "runtimeRef": REFERENCE, "suspend": bool,
            "trainer": {**TRAINER, "numProcPerNode": processes}, **job,
        },
        "trainingruntimes": {**runtime, "template": {"metadata": ANY, "spec": JOBSET}},
    }  # fmt: skip


_OLD_TORCH = {"torch": {"elasticPolicy": ANY, "numProcPerNode": (int, str)}}
_OTHERS = {"flux": ANY, "jax": ANY, "xgboost": ANY}
_NEW = {"activeDeadlineSeconds": int, "runtimePatches": ANY}
TYPES: dict[str, dict[str, Any]] = {
    "2.0.1": _types({"annotations": ANY, "labels": ANY, "podSpecOverrides": ANY}, (int, str), _OLD_TORCH),
    "2.1.0": _types({"annotations": ANY, "labels": ANY, "podTemplateOverrides": ANY}, (int, str), _OLD_TORCH),
    "2.2.0": _types(_NEW, int, {"torch": {}, **_OTHERS}),
    "2.3.0": _types(_NEW, int, {"torch": {"envInjection": ANY}, **_OTHERS}),
}


def unknown(version: str, plural: str, made: dict[str, Any]) -> list[str]:
    """The fields of an object's spec that a version does not have, or has with another type."""
    return list(_walk(TYPES[version][plural], made["spec"], "spec"))


def _walk(known: Any, value: Any, path: str) -> list[str]:
    if known is ANY:
        return []
    if isinstance(known, dict):
        if not isinstance(value, dict):
            return [f"{path}: not a mapping"]
        found = [f"{path}.{key}" for key in value if key not in known]
        return found + [p for key in value if key in known for p in _walk(known[key], value[key], f"{path}.{key}")]
    if isinstance(known, list):
        return [p for index, item in enumerate(value) for p in _walk(known[0], item, f"{path}[{index}]")]
    fits = isinstance(value, known) and (not isinstance(value, bool) or known is bool)
    return [] if fits else [f"{path}: {value!r}"]
