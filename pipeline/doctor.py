"""Looks at a cluster before a run does: one line for each thing that a run needs there.

Kubeflow is asked at its address, Kubernetes as `kubectl` would be. A pod with the image, the account, the secret and
the labels of a task finds out what only a pod can: whether the image is pulled, and whether MLflow and the object store
are reached from there.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from components.errors import StepError
from components.params import Params, resources
from pipeline.cluster import Kubeflow
from pipeline.dag import SECRET_KEYS, Cluster

if TYPE_CHECKING:
    from kubernetes.client import ApiClient

ACCOUNT = "segmodels"
CONFIG = "workflow-controller-configmap"
STORE_SECRET = "mlpipeline-minio-artifact"
# As in infra/k8s/kfp/retry.yaml: Errors are tried again everywhere, failures where the pipeline asks for it.
EXPRESSION = (
    "lastRetry.status == 'Error' || ('{{inputs.parameters.retry-max-count}}' matches '^[0-9]+$' "
    "&& !('{{inputs.parameters.cached-decision}}' matches '^(true|false)$'))"
)
PATCH = f"kubectl -n kubeflow patch configmap {CONFIG} --patch-file infra/k8s/kfp/retry.yaml"
POD_SECONDS = 300
# Runs in the pod; says in one line what it found.
INSIDE = """
import base64, json, os, urllib.request
found = {}
uri = os.environ["MLFLOW_TRACKING_URI"]
user = os.environ.get("MLFLOW_TRACKING_USERNAME", "") + ":" + os.environ.get("MLFLOW_TRACKING_PASSWORD", "")
headers = {"Authorization": "Basic " + base64.b64encode(user.encode()).decode()} if user != ":" else {}
try:
    urllib.request.urlopen(uri + "/health", timeout=20).close()
    path = uri + "/api/2.0/mlflow/experiments/search?max_results=1"
    urllib.request.urlopen(urllib.request.Request(path, headers=headers), timeout=20).close()
    found["mlflow"] = ""
except Exception as error:
    found["mlflow"] = str(error)
for bucket in json.loads(os.environ["BUCKETS"]):
    try:
        import boto3
        boto3.client("s3").head_bucket(Bucket=bucket)
        found["s3://" + bucket] = ""
    except Exception as error:
        found["s3://" + bucket] = str(error)
print("found " + json.dumps(found))
"""


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        mark: `ok`; `bad` where a run would fail; `-` for what only some runs need; `?` where it could not be seen.
        what: What was looked at.
        said: What was found, and where it is bad what to do.
    """

    mark: str
    what: str
    said: str = ""

    def __str__(self) -> str:
        return f"{self.mark:4} {self.what}{f': {self.said}' if self.said else ''}"


@dataclass(frozen=True)
class Place:
    """What is looked at: the cluster, what its pods shall have, and the settings."""

    kubeflow: Kubeflow
    cluster: Cluster
    params: Params
    kubernetes: ApiClient

    @property
    def namespace(self) -> str:
        return self.kubeflow.namespace or "kubeflow"


def findings(kubeflow: Kubeflow, cluster: Cluster, params: Params) -> Iterator[Finding]:
    """Yield what is found, one after the other: a pod takes its time."""
    yield from _kubeflow(kubeflow)
    kubernetes, reason = _connected()
    if kubernetes is None:
        yield Finding("?", "Kubernetes", f"{reason}; the rest is not looked at")
        return
    place = Place(kubeflow, cluster, params, kubernetes)
    for check in CHECKS:
        yield from _careful(check, place)


def examine(kubeflow: Kubeflow, cluster: Cluster, params: Params) -> None:
    """Print all findings.

    Raises:
        StepError: A run would fail.
    """
    bad = unseen = 0
    for finding in findings(kubeflow, cluster, params):
        print(finding, flush=True)
        bad += finding.mark == "bad"
        unseen += finding.mark == "?"
    if bad:
        raise StepError(f"{bad} of these would make a run fail{f'; {unseen} could not be seen' if unseen else ''}")


def _connected() -> tuple[ApiClient | None, str]:
    from kubernetes import client, config
    from kubernetes.config.config_exception import ConfigException

    try:
        # Its own `load_config` prints, and warns of what is no error here.
        (config.load_incluster_config if "KUBERNETES_SERVICE_HOST" in os.environ else config.load_kube_config)()
        made = client.ApiClient()
        client.VersionApi(made).get_code(_request_timeout=10)
    except ConfigException:
        return None, "no kubeconfig here (KUBECONFIG, or ~/.kube/config)"
    except Exception as error:  # whatever a network or a proxy says
        return None, " ".join(str(error).split())[:200]
    return made, ""


def _careful(check: Callable[[Place], Iterator[Finding]], place: Place) -> Iterator[Finding]:
    """Yield what Kubernetes does not let this person see is no finding, and no traceback."""
    from kubernetes.client.exceptions import ApiException
    from urllib3.exceptions import HTTPError

    try:
        yield from check(place)
    except ApiException as error:
        missing = "not in namespace kubeflow; does kubectl look at the cluster of --host?"
        what = str((check.__doc__ or "").partition(".")[0])
        yield Finding(
            "?", what, missing if error.status == 404 else f"Kubernetes answers {error.status} {error.reason}"
        )
    except (HTTPError, OSError) as error:
        yield Finding("?", str((check.__doc__ or "").partition(".")[0]), " ".join(str(error).split())[:200])


def _kubeflow(kubeflow: Kubeflow) -> Iterator[Finding]:
    try:
        kubeflow.probe()
    except StepError as error:
        yield Finding("bad", "Kubeflow Pipelines", str(error))
        return
    yield Finding("ok", "Kubeflow Pipelines", f"answers at {kubeflow.host}")


def _version(place: Place) -> Iterator[Finding]:
    """Yield version of Kubeflow Pipelines."""
    from kfp import __version__ as sdk
    from kubernetes.client import AppsV1Api

    deployment = AppsV1Api(place.kubernetes).read_namespaced_deployment("ml-pipeline", "kubeflow")
    image = deployment.spec.template.spec.containers[0].image
    version = image.rpartition(":")[2].partition("@")[0]
    older = _numbers(version) < _numbers(sdk)[:2]
    what = "version of Kubeflow Pipelines"
    if older:
        yield Finding("bad", what, f"{version}, older than kfp {sdk} here; install {sdk.rpartition('.')[0]} or newer")
    else:
        yield Finding("ok", what, f"{version} (kfp {sdk} here)")


def _retries(place: Place) -> Iterator[Finding]:
    """Yield what is tried again."""
    from kubernetes.client import CoreV1Api

    config_map = CoreV1Api(place.kubernetes).read_namespaced_config_map(CONFIG, "kubeflow")
    yield retries(config_map.data or {})


def retries(config: Mapping[str, str]) -> Finding:
    """Return what Argo's controller does with a task that fails, from the data of its configuration."""
    what = "what is tried again"
    try:
        content = yaml.safe_load(config.get("workflowDefaults", "")) or {}
        default = content.get("spec", {}).get("templateDefaults", {}).get("retryStrategy") or {}
    except (yaml.YAMLError, AttributeError):
        return Finding("bad", what, f"workflowDefaults of {CONFIG} cannot be read; {PATCH}")
    policy, expression = default.get("retryPolicy"), " ".join(str(default.get("expression") or "").split())
    if policy in ("OnError", "OnTransientError"):
        return Finding(
            "bad", what, f"nothing that crashes, is killed or runs out of memory (retryPolicy: {policy}); {PATCH}"
        )
    if policy in (None, "OnFailure"):
        return Finding("bad", what, f"no task whose pod is deleted or whose node goes away; {PATCH}")
    if expression == EXPRESSION:
        return Finding("ok", what, "failed tasks of this pipeline, and every pod that was lost")
    if not expression and str(default.get("limit")) == "0":
        return Finding("ok", what, "failed and lost tasks of this pipeline; none of Kubeflow's own pods")
    return Finding("?", what, f"by a rule of this cluster's own ({default}); ours: {PATCH}")


def _store(place: Place) -> Iterator[Finding]:
    """Artifact store."""
    from kubernetes.client import CoreV1Api

    core = CoreV1Api(place.kubernetes)
    config_map = core.read_namespaced_config_map(CONFIG, "kubeflow")
    content = yaml.safe_load((config_map.data or {}).get("artifactRepository", "")) or {}
    kinds = [kind for kind in ("s3", "gcs", "azure", "oss") if kind in content]
    if not kinds:
        yield Finding("bad", "artifact store", f"{CONFIG} names none; logs and artifacts would be lost")
        return
    kept = content.get("archiveLogs")
    place_ = content[kinds[0]]
    where = f"{place_.get('endpoint', kinds[0])}/{place_.get('bucket', '')}"
    yield Finding("ok", "artifact store", f"{where}{'' if kept else '; logs go with their pods (archiveLogs is off)'}")
    secret = place_.get("accessKeySecret", {}).get("name")
    if secret and not _exists(lambda: core.read_namespaced_secret(secret, place.namespace)):
        yield Finding("bad", f"secret {place.namespace}/{secret}", "missing; pods cannot write artifacts")


def _account(place: Place) -> Iterator[Finding]:
    """Service account."""
    from kubernetes import client

    core = client.CoreV1Api(place.kubernetes)
    what = f"service account {place.namespace}/{ACCOUNT}"
    if not _exists(lambda: core.read_namespaced_service_account(ACCOUNT, place.namespace)):
        yield Finding("bad", what, "missing; kubectl apply --kustomize infra/k8s/overlays/…")
        return
    asked = (("argoproj.io", "workflowtaskresults", "create", None), ("", "secrets", "get", STORE_SECRET))
    for group, resource, verb, name in asked:
        review = client.V1SubjectAccessReview(
            spec=client.V1SubjectAccessReviewSpec(
                user=f"system:serviceaccount:{place.namespace}:{ACCOUNT}",
                resource_attributes=client.V1ResourceAttributes(
                    namespace=place.namespace, group=group, resource=resource, verb=verb, name=name
                ),
            )
        )
        if not client.AuthorizationV1Api(place.kubernetes).create_subject_access_review(review).status.allowed:
            yield Finding("bad", what, f"may not {verb} {resource}; kubectl apply --kustomize infra/k8s/overlays/…")
            return
    api = client.AppsV1Api(place.kubernetes).read_namespaced_deployment("ml-pipeline", "kubeflow")
    variables = {v.name: v.value for c in api.spec.template.spec.containers for v in c.env or ()}
    used = variables.get("DEFAULTPIPELINERUNNERSERVICEACCOUNT")
    if used != ACCOUNT:
        yield Finding(
            "bad",
            what,
            f"runs use {used or 'pipeline-runner'}, whose rights differ; set DEFAULTPIPELINERUNNERSERVICEACCOUNT of "
            "deployment ml-pipeline, as infra/k8s/kfp does",
        )
    else:
        yield Finding("ok", what)


def _secret(place: Place) -> Iterator[Finding]:
    """Secret of the pods."""
    from kubernetes.client import CoreV1Api

    name = place.cluster.secret
    if not name:
        yield Finding(
            "-", "secret of the pods", "none named (--secret); MLflow and S3 would be asked without credentials"
        )
        return
    what = f"secret {place.namespace}/{name}"
    core = CoreV1Api(place.kubernetes)
    if not _exists(lambda: core.read_namespaced_secret(name, place.namespace)):
        yield Finding("bad", what, "missing; docs/cluster.md, step 4, makes it")
        return
    keys = set(core.read_namespaced_secret(name, place.namespace).data or {})
    known = sorted(keys & set(SECRET_KEYS))
    wanted = {"MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD"}
    lacks = f"; lacks {', '.join(sorted(wanted - keys))}" if wanted - keys else ""
    yield Finding("ok", what, f"{', '.join(known) or 'no key that a step reads'}{lacks}")


def _claim(place: Place) -> Iterator[Finding]:
    """Volume claim."""
    from kubernetes.client import CoreV1Api

    name = place.cluster.cache_claim
    if not name:
        return
    what = f"claim {place.namespace}/{name}"
    core = CoreV1Api(place.kubernetes)
    if not _exists(lambda: core.read_namespaced_persistent_volume_claim(name, place.namespace)):
        yield Finding("bad", what, "missing; kubectl apply --kustomize infra/k8s/overlays/…")
        return
    claim = core.read_namespaced_persistent_volume_claim(name, place.namespace)
    phase, modes = claim.status.phase, ", ".join(claim.spec.access_modes)
    if phase == "Lost":
        yield Finding("bad", what, "its volume is gone")
    elif phase == "Pending":
        yield Finding("ok", what, f"waits for the first pod that mounts it ({modes})")
    else:
        yield Finding("ok", what, f"{claim.status.capacity.get('storage', '')}, {modes}")


def _devices(place: Place) -> Iterator[Finding]:
    """GPUs of the nodes."""
    from kubernetes.client import CoreV1Api

    nodes = CoreV1Api(place.kubernetes).list_node().items
    for key in place.params.models:
        needs = resources(place.params, key)
        if not needs.gpu:
            continue
        most = max((int(node.status.allocatable.get(needs.gpu_type, 0)) for node in nodes), default=0)
        if most < needs.gpu:
            yield Finding(
                "bad",
                f"{needs.gpu_type} for {key}",
                f"it asks for {needs.gpu}, and no node has more than {most}; set resources.default.gpu in params.yaml",
            )
            return
    yield Finding("ok", "GPUs of the nodes", f"enough for {', '.join(place.params.models)}")


def _extensions(place: Place) -> Iterator[Finding]:
    """Trainer and Kueue."""
    from kubernetes.client import ApisApi

    needs = [resources(place.params, key) for key in place.params.models]
    wanted = (
        ("Kubeflow Trainer", "trainer.kubeflow.org", any(one.nodes > 1 for one in needs), "nodes"),
        ("Kueue", "kueue.x-k8s.io", any(one.priority for one in needs), "priority"),
    )
    served = ApisApi(place.kubernetes).get_api_versions().groups
    groups = {group.name: group.preferred_version.version for group in served}
    for name, group, needed, setting in wanted:
        if group in groups:
            yield Finding("ok", name, f"{group}/{groups[group]}")
        elif needed:
            yield Finding("bad", name, f"not installed, and resources.….{setting} in params.yaml needs it")
        else:
            yield Finding("-", name, f"not installed; only resources.….{setting} would need it")


def _pod(place: Place) -> Iterator[Finding]:
    """Yield a pod with the image."""
    from kubernetes.client import CoreV1Api
    from kubernetes.client.exceptions import ApiException

    core = CoreV1Api(place.kubernetes)
    try:
        made = core.create_namespaced_pod(place.namespace, pod(place))
    except ApiException as error:
        said = json.loads(error.body).get("message", "") if error.body else error.reason
        yield Finding("bad", "a pod of ours", f"Kubernetes refuses it: {said}")
        return
    name = made.metadata.name
    try:
        state, deadline = made, time.monotonic() + POD_SECONDS
        while state.status.phase not in ("Succeeded", "Failed") and time.monotonic() < deadline:
            reason = _waiting(state)
            if reason and re.match("ErrImage|ImagePullBackOff|InvalidImageName|ErrImageNeverPull", reason):
                break
            time.sleep(1)
            state = core.read_namespaced_pod(name, place.namespace)
        if state.status.phase not in ("Succeeded", "Failed"):
            reason = _waiting(state) or f"did not end within {POD_SECONDS} s"
            yield Finding("bad", f"image {place.cluster.image}", reason)
            return
        log = core.read_namespaced_pod_log(name, place.namespace)
    finally:
        core.delete_namespaced_pod(name, place.namespace, grace_period_seconds=0)
    yield Finding("ok", f"image {place.cluster.image}", f"was pulled by {state.spec.node_name}")
    said = next((line.removeprefix("found ") for line in log.splitlines() if line.startswith("found {")), "")
    if not said:
        yield Finding("bad", "a pod of ours", (log.strip().splitlines() or ["printed nothing"])[-1])
        return
    for what, trouble in json.loads(said).items():
        named = f"MLflow at {place.cluster.tracking_uri}" if what == "mlflow" else what
        yield Finding("bad" if trouble else "ok", f"{named}, from a pod", trouble or "reached")


def pod(place: Place) -> dict[str, Any]:
    """Return a pod that is let in and out as a task's is, and asks MLflow and the buckets."""
    buckets = {
        urlsplit(address).netloc
        for address in (str(place.params.data.source), place.cluster.state or "", place.cluster.data_remote)
        if address.startswith("s3://")
    }
    variables: list[dict[str, Any]] = [
        {"name": "MLFLOW_TRACKING_URI", "value": place.cluster.tracking_uri},
        {"name": "BUCKETS", "value": json.dumps(sorted(buckets))},
    ]
    if place.cluster.secret:
        for key in SECRET_KEYS:
            chosen = {"name": place.cluster.secret, "key": key, "optional": True}
            variables.append({"name": key, "valueFrom": {"secretKeyRef": chosen}})
    amounts = {"cpu": "100m", "memory": "512Mi"}
    return {
        "metadata": {
            "generateName": "segmodels-doctor-",
            "labels": {"pipelines.kubeflow.org/v2_component": "true", "app.kubernetes.io/name": "segmodels-doctor"},
        },
        "spec": {
            "restartPolicy": "Never",
            "serviceAccountName": ACCOUNT,
            "automountServiceAccountToken": False,
            "activeDeadlineSeconds": POD_SECONDS,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": 10001,
                "runAsGroup": 10001,
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [
                {
                    "name": "main",
                    "image": place.cluster.image,
                    "command": ["python", "-c", INSIDE],
                    "env": variables,
                    "resources": {"requests": amounts, "limits": amounts},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


CHECKS = (_version, _retries, _store, _account, _secret, _claim, _devices, _extensions, _pod)


def _waiting(pod: Any) -> str:
    """Return why a pod does not run yet."""
    for status in pod.status.container_statuses or ():
        if status.state.waiting and status.state.waiting.reason not in ("ContainerCreating", "PodInitializing"):
            return f"{status.state.waiting.reason}: {status.state.waiting.message or ''}".rstrip(": ")
    for condition in pod.status.conditions or ():
        if condition.reason == "Unschedulable":
            return str(condition.message)
    return ""


def _exists(read: Callable[[], Any]) -> bool:
    from kubernetes.client.exceptions import ApiException

    try:
        read()
    except ApiException as error:
        if error.status == 404:
            return False
        raise
    return True


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:3])
