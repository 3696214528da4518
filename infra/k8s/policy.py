"""What no manifest of ours may do, whatever a validator of types says: one function a rule.

A rule takes all resources of an overlay, as they are applied, and yields sentences. `RULES` are those for Kubernetes,
`COMPOSE_RULES` those for compose.yaml.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

Resource = dict[str, Any]
Rule = Callable[[list[Resource]], Iterator[str]]

# Where a resource has the template of its pods.
TEMPLATES: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "StatefulSet": ("spec", "template"),
    "DaemonSet": ("spec", "template"),
    "ReplicaSet": ("spec", "template"),
    "Job": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
# Tags that mean something else tomorrow: words, and numbers that leave a part of the version open (17, v2).
MOVING = re.compile(r"(latest|stable|main|master|edge|nightly|dev|v?\d+)(-.*)?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
SECRET_NAME = re.compile(r"password|passwd|secret|token|credential|access_?key|private_?key|api_?key", re.IGNORECASE)
# scheme://user:password@host
URL_WITH_PASSWORD = re.compile(r"\w+://[^\s/:@]*:[^\s/@]+@")
# What an InferenceService of KServe has among the fields of its pods.
KSERVE = frozenset({"minReplicas", "maxReplicas", "scaleMetric", "scaleTarget", "timeout", "labels", "annotations"})
LIMITED = ("cpu", "memory", "ephemeral-storage")


def name(resource: Resource) -> str:
    meta = resource["metadata"]
    return f"{resource['kind']} {meta.get('namespace', '-')}/{meta['name']}"


def template(resource: Resource) -> Resource | None:
    """The template of the pods that a resource makes."""
    if resource["kind"] == "InferenceService":
        predictor = resource["spec"]["predictor"]
        spec = {key: value for key, value in predictor.items() if key not in KSERVE}
        return {"metadata": {"labels": predictor.get("labels", {})}, "spec": spec}
    if resource["kind"] not in TEMPLATES:
        return None
    for key in TEMPLATES[resource["kind"]]:
        resource = resource[key]
    return resource


def pods(resources: list[Resource]) -> Iterator[tuple[str, Resource]]:
    """Every specification of pods, with the name of the resource that has it."""
    for resource in resources:
        if made := template(resource):
            yield name(resource), made["spec"]


def containers(resources: list[Resource]) -> Iterator[tuple[str, Resource, Resource]]:
    """Every container, those that run before the others too: its name, itself, its pod."""
    for where, pod in pods(resources):
        for kind in ("initContainers", "containers", "ephemeralContainers"):
            for container in pod.get(kind, ()):
                yield f"{where}, container {container['name']}", container, pod


def privilege(resources: list[Resource]) -> Iterator[str]:
    """No pod gets more of its node than processes and memory."""
    for where, pod in pods(resources):
        for field in ("hostNetwork", "hostPID", "hostIPC"):
            if pod.get(field):
                yield f"{where}: {field} gives it its node's"
        for volume in pod.get("volumes", ()):
            if "hostPath" in volume:
                yield f"{where}: volume {volume['name']} is a folder of its node"
    for where, container, _ in containers(resources):
        context = container.get("securityContext", {})
        if context.get("privileged"):
            yield f"{where}: is privileged"
        if added := context.get("capabilities", {}).get("add"):
            yield f"{where}: adds capabilities {', '.join(added)}"
        for port in container.get("ports", ()):
            if "hostPort" in port:
                yield f"{where}: takes port {port['hostPort']} of its node"


def security_context(resources: list[Resource]) -> Iterator[str]:
    """Pods say that they run as an ordinary user who can write nowhere but in volumes."""
    for where, container, pod in containers(resources):
        outer, inner = pod.get("securityContext", {}), container.get("securityContext", {})
        both = outer | inner
        if both.get("runAsNonRoot") is not True or both.get("runAsUser") == 0:
            yield f"{where}: may run as root; set runAsNonRoot: true"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield f"{where}: may make every system call; set seccompProfile"
        if inner.get("allowPrivilegeEscalation") is not False:
            yield f"{where}: may gain privileges; set allowPrivilegeEscalation: false"
        if inner.get("readOnlyRootFilesystem") is not True:
            yield f"{where}: may change its own image; set readOnlyRootFilesystem: true"
        if "ALL" not in inner.get("capabilities", {}).get("drop", ()):
            yield f"{where}: keeps capabilities; drop ALL"


def images(resources: list[Resource]) -> Iterator[str]:
    """Images are named by a version or a digest."""
    for where, container, _ in containers(resources):
        if trouble := moving(container.get("image", "")):
            yield f"{where}: {trouble}"


def moving(image: str) -> str | None:
    """Why the content of this image may change, or None."""
    path, _, digest = image.partition("@")
    if digest:
        return None if DIGEST.fullmatch(digest) else f"image {image}: {digest} is no digest"
    tag = path.rpartition("/")[2].partition(":")[2]
    if not tag:
        return f"image {image}: has no tag, which means latest"
    return f"image {image}: the tag {tag} moves; name a version" if MOVING.fullmatch(tag) else None


def digests(resources: list[Resource]) -> Iterator[str]:
    """Images are named by a digest: for what is about to be deployed (`--digests`), not for the manifests in git."""
    for where, container, _ in containers(resources):
        if "@sha256:" not in container.get("image", ""):
            yield f"{where}: image {container.get('image')}: has no digest; `make pin-images` finds it"


def limits(resources: list[Resource]) -> Iterator[str]:
    """Every container says what it needs and what it may take at most."""
    for where, container, _ in containers(resources):
        for kind in ("requests", "limits"):
            given = container.get("resources", {}).get(kind, {})
            if missing := [resource for resource in LIMITED if resource not in given]:
                yield f"{where}: no {kind} for {', '.join(missing)}"
    for where, pod in pods(resources):
        for volume in pod.get("volumes", ()):
            if "emptyDir" in volume and "sizeLimit" not in (volume["emptyDir"] or {}):
                yield f"{where}: volume {volume['name']} may fill its node; set sizeLimit"


def tokens(resources: list[Resource]) -> Iterator[str]:
    """No pod is handed a key to the Kubernetes API that it did not ask for."""
    accounts = {(r["metadata"]["namespace"], r["metadata"]["name"]) for r in resources if r["kind"] == "ServiceAccount"}
    for resource in resources:
        if resource["kind"] == "ServiceAccount" and "automountServiceAccountToken" not in resource:
            yield f"{name(resource)}: hands its token to every pod; set automountServiceAccountToken"
        for where, pod in pods([resource]):
            if pod.get("automountServiceAccountToken") is not False:
                yield f"{where}: gets a token; set automountServiceAccountToken: false"
            account = pod.get("serviceAccountName", "default")
            if (resource["metadata"]["namespace"], account) not in accounts:
                yield f"{where}: its account {account} is not one of ours"


def rights(resources: list[Resource]) -> Iterator[str]:
    """Roles name what they open; none opens all secrets, or lets its holder become somebody else."""
    for resource in resources:
        if resource["kind"] in ("ClusterRoleBinding", "ClusterRole"):
            yield f"{name(resource)}: reaches into every namespace; use a Role"
        for rule in resource.get("rules", ()) if resource["kind"] in ("Role", "ClusterRole") else ():
            for field in ("apiGroups", "resources", "verbs"):
                if "*" in rule.get(field, ()):
                    yield f"{name(resource)}: {field} is *; name them"
            if "secrets" in rule["resources"] and not rule.get("resourceNames"):
                yield f"{name(resource)}: opens every secret; give resourceNames"
            if forbidden := {"pods/exec", "pods/attach", "serviceaccounts/token"} & set(rule["resources"]):
                yield f"{name(resource)}: opens {', '.join(sorted(forbidden))}"
            if forbidden := {"escalate", "bind", "impersonate"} & set(rule["verbs"]):
                yield f"{name(resource)}: allows to {', '.join(sorted(forbidden))}"


def secrets(resources: list[Resource]) -> Iterator[str]:
    """Secrets are named, never written: nobody who reads the repository learns one."""
    for resource in resources:
        if resource["kind"] == "Secret" and (resource.get("data") or resource.get("stringData")):
            yield f"{name(resource)}: has its values in plain text; make it on the cluster"
        if resource["kind"] == "ConfigMap":
            for key, value in resource.get("data", {}).items():
                yield from plain(f"{name(resource)}, {key}", key, value)
                for line in value.splitlines():
                    setting, _, given = line.partition("=")
                    if not line.lstrip().startswith(("#", ";")):
                        yield from plain(f"{name(resource)}, {key}", setting.strip(), given.strip())
    for where, container, _ in containers(resources):
        for variable in container.get("env", ()):
            yield from plain(f"{where}, {variable['name']}", variable["name"], variable.get("value", ""))
        for argument in (*container.get("command", ()), *container.get("args", ())):
            option, _, given = argument.partition("=")
            yield from plain(f"{where}, argument {option}" if given else where, option, given)
            yield from plain(where, "", argument)


def plain(where: str, key: str, value: str) -> Iterator[str]:
    """A value that is a secret by the name it has or by what it says."""
    if value and "\n" not in value and SECRET_NAME.search(key):
        yield f"{where}: a secret in plain text; refer to one"
    elif URL_WITH_PASSWORD.search(value):
        yield f"{where}: an address with its password"


def network(resources: list[Resource]) -> Iterator[str]:
    """Every namespace with pods of ours is closed, and opened for what is named."""
    closed = {
        r["metadata"]["namespace"]
        for r in resources
        if r["kind"] == "NetworkPolicy"
        and not r["spec"]["podSelector"]
        and set(r["spec"].get("policyTypes", ())) == {"Ingress", "Egress"}
        and not r["spec"].get("ingress")
        and not r["spec"].get("egress")
    }
    for where, _ in pods(resources):
        if where.split(" ", 1)[1].split("/")[0] not in closed:
            yield f"{where}: nothing closes its namespace; add a NetworkPolicy that denies all"
    for resource in resources:
        if resource["kind"] == "NetworkPolicy":
            for direction, side in (("ingress", "from"), ("egress", "to")):
                if any(not rule.get(side) for rule in resource["spec"].get(direction, ())):
                    yield f"{name(resource)}: {direction} is open to everybody"
        if resource["kind"] == "Ingress" and not resource["spec"].get("tls"):
            yield f"{name(resource)}: passwords would travel in the open; set tls"
        if resource["kind"] == "Service" and resource["spec"].get("type", "ClusterIP") != "ClusterIP":
            yield f"{name(resource)}: is reached from outside, past the ingress and its TLS"


def references(resources: list[Resource]) -> Iterator[str]:
    """Selectors find pods, and ports have the names that are asked for: a validator of types sees none of that."""
    labels: dict[str, list[dict[str, str]]] = {}  # of all pods, by namespace
    ports: dict[str, set[str]] = {}  # names of all ports, by namespace
    for resource in resources:
        if made := template(resource):
            space, own = resource["metadata"]["namespace"], made["metadata"].get("labels", {})
            labels.setdefault(space, []).append(own)
            named = {
                port.get("name") for container in made["spec"]["containers"] for port in container.get("ports", ())
            }
            ports.setdefault(space, set()).update(named)
            selector = resource["spec"].get("selector", {}).get("matchLabels", {})
            if not selector.items() <= own.items():
                yield f"{name(resource)}: its selector does not find its own pods"
    services = {
        (resource["metadata"]["namespace"], resource["metadata"]["name"], port.get("name"))
        for resource in resources
        if resource["kind"] == "Service"
        for port in resource["spec"]["ports"]
    }
    for resource in resources:
        kind, space, spec = resource["kind"], resource["metadata"].get("namespace"), resource.get("spec", {})
        if kind in ("Service", "PodDisruptionBudget"):
            selector = spec["selector"] if kind == "Service" else spec["selector"]["matchLabels"]
            if not any(selector.items() <= found.items() for found in labels.get(space, ())):
                yield f"{name(resource)}: its selector finds no pod"
        if kind == "Service":
            for port in spec["ports"]:
                target = port.get("targetPort")
                if isinstance(target, str) and target not in ports.get(space, ()):
                    yield f"{name(resource)}: no pod has a port {target}"
        if kind == "HorizontalPodAutoscaler":
            target = spec["scaleTargetRef"]
            if f"{target['kind']} {space}/{target['name']}" not in {name(r) for r in resources}:
                yield f"{name(resource)}: there is no {target['kind']} {target['name']}"
        if kind == "Ingress":
            for path in (path for rule in spec["rules"] for path in rule["http"]["paths"]):
                service = path["backend"]["service"]
                if (space, service["name"], service["port"].get("name")) not in services:
                    yield f"{name(resource)}: there is no service {service['name']} with that port"


def changes(resources: list[Resource]) -> Iterator[str]:
    """What is applied can be applied again with another image, and nothing is there for nobody."""
    named = {pod.get("priorityClassName") for _, pod in pods(resources)}
    for resource in resources:
        if resource["kind"] == "Job":
            yield f"{name(resource)}: its pods cannot be changed, so no other image could be applied"
        if resource["kind"] == "PriorityClass" and resource["metadata"]["name"] not in named:
            yield f"{name(resource)}: no pod names it"


RULES: tuple[Rule, ...] = (
    changes,
    privilege,
    security_context,
    images,
    limits,
    tokens,
    rights,
    secrets,
    network,
    references,
)


def compose(file: Resource) -> Iterator[str]:
    """The same for compose.yaml."""
    for key, service in file["services"].items():
        if trouble := moving(service.get("image", "")):
            yield f"{key}: {trouble}"
        if service.get("privileged") or service.get("network_mode") == "host" or service.get("pid") == "host":
            yield f"{key}: gets its host's privileges"
        if service.get("read_only") is not True:
            yield f"{key}: may change its own image; set read_only: true"
        if "ALL" not in service.get("cap_drop", ()):
            yield f"{key}: keeps capabilities; drop ALL"
        if "no-new-privileges:true" not in service.get("security_opt", ()):
            yield f"{key}: may gain privileges; set no-new-privileges"
        if not service.get("mem_limit") or not service.get("cpus"):
            yield f"{key}: no limits; set mem_limit and cpus"
        for variable, value in service.get("environment", {}).items():
            if not str(value).startswith("${"):
                yield from plain(f"{key}, {variable}", variable, str(value))
        for port in service.get("ports", ()):
            if not str(port).startswith("127.0.0.1:"):
                yield f"{key}: port {port} is open to the network; bind it to 127.0.0.1"
        for volume in service.get("volumes", ()):
            if "docker.sock" in str(volume) or "podman.sock" in str(volume):
                yield f"{key}: may command the container engine"
