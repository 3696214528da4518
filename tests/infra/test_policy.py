"""What no manifest may do: the overlays keep every rule, and every rule refuses what it is for."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import pytest
import yaml

from infra.k8s import check, policy

Resources = list[dict[str, Any]]
OVERLAYS = ["local", "production"]


def find(resources: Resources, kind: str, name: str) -> dict[str, Any]:
    """The resource of this kind, outside the server's namespace, whose name begins so."""
    others = (r for r in resources if r["metadata"].get("namespace") != "segmodels")
    (found,) = (r for r in others if r["kind"] == kind and r["metadata"]["name"].startswith(name))
    return found


def pod(resources: Resources) -> dict[str, Any]:
    return find(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]


def container(resources: Resources) -> dict[str, Any]:
    return pod(resources)["containers"][0]


def served(resources: Resources) -> dict[str, Any]:
    (found,) = (r for r in resources if policy.name(r) == "Deployment segmodels/serving")
    return found["spec"]["template"]["spec"]


def job(resources: Resources) -> dict[str, Any]:
    template = copy.deepcopy(find(resources, "Deployment", "mlflow")["spec"]["template"])
    meta = {"name": "once", "namespace": "mlflow"}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": meta, "spec": {"template": template}}


def role(resources: Resources) -> list[dict[str, Any]]:
    return find(resources, "Role", "segmodels")["rules"]


def config(resources: Resources) -> dict[str, str]:
    return find(resources, "ConfigMap", "mlflow")["data"]


def secret(**content: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "mlflow"}, **content}


def without(resources: Resources, kind: str, name: str) -> None:
    resources.remove(find(resources, kind, name))


def with_image(resources: Resources, image: str) -> None:
    container(resources).update(image=image)


def drop(mapping: dict[str, Any], *keys: str) -> None:
    for key in keys:
        del mapping[key]


DIGEST = "sha256:" + "0" * 64
# Rule -> (what somebody writes, what is said of it).
BROKEN: dict[policy.Rule, list[tuple[Callable[[Resources], Any], str]]] = {
    policy.changes: [
        (lambda r: r.append(job(r)), "its pods cannot be changed, so no other image could be applied"),
        (lambda r: drop(served(r), "priorityClassName"), "PriorityClass -/segmodels-serving: no pod names it"),
    ],
    policy.privilege: [
        (lambda r: container(r)["securityContext"].update(privileged=True), "is privileged"),
        (lambda r: container(r)["securityContext"]["capabilities"].update(add=["NET_ADMIN"]), "adds capabilities"),
        (lambda r: pod(r).update(hostNetwork=True), "hostNetwork"),
        (lambda r: pod(r).update(hostPID=True), "hostPID"),
        (lambda r: pod(r).update(hostIPC=True), "hostIPC"),
        (lambda r: pod(r)["volumes"].append({"name": "v", "hostPath": {"path": "/"}}), "is a folder of its node"),
        (lambda r: container(r)["ports"][0].update(hostPort=80), "takes port 80 of its node"),
        (
            lambda r: pod(r).update(initContainers=[{"name": "i", "securityContext": {"privileged": True}}]),
            "container i: is privileged",
        ),
    ],
    policy.security_context: [
        (lambda r: drop(container(r), "securityContext"), "may change its own image"),
        (lambda r: drop(pod(r), "securityContext"), "may run as root"),
        (lambda r: pod(r)["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda r: container(r)["securityContext"].update(runAsUser=0), "may run as root"),
        (lambda r: drop(pod(r)["securityContext"], "seccompProfile"), "may make every system call"),
        (lambda r: drop(container(r)["securityContext"], "allowPrivilegeEscalation"), "may gain privileges"),
        (lambda r: container(r)["securityContext"].update(readOnlyRootFilesystem=False), "may change its own image"),
        (lambda r: drop(container(r)["securityContext"], "capabilities"), "keeps capabilities"),
    ],
    policy.images: [
        (partial(with_image, image=image), "image")
        for image in (
            "mlflow",
            "mlflow:latest",
            "registry:5000/mlflow",
            "x:17",
            "x:v3",
            "x:main",
            "x:latest-gpu",
            "x@sha256:12",
        )
    ],
    policy.digests: [(lambda r: container(r).update(image="mlflow:1.2.3"), "has no digest")],
    policy.limits: [
        (lambda r: drop(container(r), "resources"), "no requests for cpu, memory"),
        (lambda r: drop(container(r)["resources"], "limits"), "no limits for cpu, memory"),
        (lambda r: drop(container(r)["resources"]["limits"], "memory"), "no limits for memory"),
        (lambda r: pod(r)["volumes"].append({"name": "v", "emptyDir": {}}), "may fill its node"),
    ],
    policy.tokens: [
        (lambda r: drop(pod(r), "automountServiceAccountToken"), "gets a token"),
        (lambda r: pod(r).update(automountServiceAccountToken=True), "gets a token"),
        (lambda r: pod(r).update(serviceAccountName="cluster-admin"), "its account cluster-admin is not one of ours"),
        (lambda r: without(r, "ServiceAccount", "default"), "its account default is not one of ours"),
        (
            lambda r: drop(find(r, "ServiceAccount", "mlflow"), "automountServiceAccountToken"),
            "hands its token to every pod",
        ),
    ],
    policy.rights: [
        (lambda r: role(r)[0].update(verbs=["*"]), "verbs is *"),
        (lambda r: role(r)[0].update(resources=["*"]), "resources is *"),
        (lambda r: role(r)[0].update(apiGroups=["*"]), "apiGroups is *"),
        (lambda r: [rule.pop("resourceNames", None) for rule in role(r)], "opens every secret"),
        (lambda r: role(r)[0]["resources"].append("pods/exec"), "opens pods/exec"),
        (lambda r: role(r)[0]["verbs"].append("impersonate"), "allows to impersonate"),
        (lambda r: find(r, "Role", "segmodels").update(kind="ClusterRole"), "reaches into every namespace"),
    ],
    policy.secrets: [
        (lambda r: r.append(secret(stringData={"PGPASSWORD": "hunter2"})), "has its values in plain text"),
        (lambda r: r.append(secret(data={"PGPASSWORD": "aHVudGVyMg=="})), "has its values in plain text"),
        (lambda r: config(r).update(PGPASSWORD="hunter2"), "a secret in plain text"),
        (lambda r: config(r).update({"a.ini": "[x]\nadmin_password = hunter2"}), "a secret in plain text"),
        (lambda r: config(r).update({"a.ini": "uri = postgresql://me:hunter2@db/x"}), "an address with its password"),
        (
            lambda r: container(r)["env"].append({"name": "AWS_SECRET_ACCESS_KEY", "value": "x"}),
            "a secret in plain text",
        ),
        (
            lambda r: container(r)["env"].append({"name": "DB", "value": "pg://me:pw@db"}),
            "an address with its password",
        ),
        (lambda r: container(r)["args"].append("--admin-password=x"), "a secret in plain text"),
        (lambda r: container(r)["args"].append("postgresql://me:pw@db/x"), "an address with its password"),
    ],
    policy.network: [
        (lambda r: without(r, "NetworkPolicy", "deny-all"), "nothing closes its namespace"),
        (lambda r: find(r, "NetworkPolicy", "deny-all")["spec"].update(egress=[{}]), "egress is open to everybody"),
        (lambda r: drop(find(r, "NetworkPolicy", "dns")["spec"]["egress"][0], "to"), "egress is open to everybody"),
        (
            lambda r: drop(find(r, "NetworkPolicy", "mlflow-from-p")["spec"]["ingress"][0], "from"),
            "ingress is open to everybody",
        ),
        (lambda r: find(r, "Service", "mlflow")["spec"].update(type="LoadBalancer"), "is reached from outside"),
        (lambda r: find(r, "Service", "mlflow")["spec"].update(type="NodePort"), "is reached from outside"),
    ],
    policy.references: [
        (lambda r: find(r, "Service", "mlflow")["spec"].update(selector={"app": "x"}), "its selector finds no pod"),
        (lambda r: find(r, "Service", "mlflow")["spec"]["ports"][0].update(targetPort="x"), "no pod has a port x"),
        (lambda r: find(r, "Deployment", "mlflow")["spec"]["template"]["metadata"].pop("labels"), "its own pods"),
        (
            lambda r: find(r, "PodDisruptionBudget", "mlflow")["spec"]["selector"].update(matchLabels={"a": "b"}),
            "no pod",
        ),
    ],
}
CASES = [(rule, change, said) for rule, cases in BROKEN.items() for change, said in cases]


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("rule", policy.RULES, ids=lambda rule: rule.__name__)
def test_the_overlays_keep_every_rule(rule, name, overlay):
    assert list(rule(overlay(name))) == []


@pytest.mark.parametrize(("rule", "change", "said"), CASES, ids=[f"{rule.__name__}-{said}" for rule, _, said in CASES])
def test_a_rule_refuses_what_it_is_for(rule, change, said, overlay):
    resources = overlay("local")
    before = set(rule(resources))
    change(resources)
    told = set(rule(resources)) - before
    assert any(said in sentence for sentence in told) or (rule is policy.digests and any(said in s for s in before))
    assert all(sentence.split(":")[0] for sentence in told)


def test_no_rule_is_without_an_example_that_it_refuses():
    assert {*policy.RULES, policy.digests} == set(BROKEN)


def test_an_ingress_needs_tls_and_a_service_that_is_there(overlay):
    resources = overlay("production")
    ingress = find(resources, "Ingress", "mlflow")["spec"]
    del ingress["tls"]
    assert any("set tls" in sentence for sentence in policy.network(resources))
    ingress["rules"][0]["http"]["paths"][0]["backend"]["service"]["name"] = "gone"
    assert any("there is no service gone" in sentence for sentence in policy.references(resources))


@pytest.mark.parametrize("image", ["postgres:17.9", "a/b:2.17.0", "x:3.11-slim", f"x@{DIGEST}", f"x:latest@{DIGEST}"])
def test_versions_and_digests_do_not_move(image):
    assert policy.moving(image) is None


def test_pods_of_every_kind_are_looked_at(overlay):
    spec = {"containers": [{"name": "c", "image": "x"}]}
    meta = {"metadata": {"name": "p", "namespace": "n"}}
    template = {"metadata": {}, "spec": spec}
    made: Iterable[dict[str, Any]] = [
        {"kind": "Pod", **meta, "spec": spec},
        *({"kind": k, **meta, "spec": {"template": template}} for k in policy.TEMPLATES if k not in ("Pod", "CronJob")),
        {"kind": "CronJob", **meta, "spec": {"jobTemplate": {"spec": {"template": template}}}},
    ]
    said = [sentence.split(" ")[0] for sentence in policy.images(list(made))]
    assert sorted(said) == sorted(policy.TEMPLATES)


COMPOSE = yaml.safe_load(check.COMPOSE.read_text())


def test_compose_keeps_the_rules():
    assert list(policy.compose(COMPOSE)) == []


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"image": "postgres:latest"}, "the tag latest moves"),
        ({"privileged": True}, "gets its host's privileges"),
        ({"network_mode": "host"}, "gets its host's privileges"),
        ({"read_only": False}, "may change its own image"),
        ({"cap_drop": []}, "keeps capabilities"),
        ({"security_opt": []}, "may gain privileges"),
        ({"mem_limit": None}, "no limits"),
        ({"environment": {"POSTGRES_PASSWORD": "hunter2"}}, "a secret in plain text"),
        ({"environment": {"DB": "pg://me:pw@db"}}, "an address with its password"),
        ({"ports": ["5432:5432"]}, "is open to the network"),
        ({"volumes": ["/var/run/docker.sock:/s"]}, "may command the container engine"),
    ],
    ids=str,
)
def test_compose_is_refused_what_kubernetes_is(changed, said):
    file = copy.deepcopy(COMPOSE)
    file["services"]["postgres"].update(changed)
    assert any(sentence.startswith("postgres") and said in sentence for sentence in policy.compose(file))


def test_compose_and_the_cluster_run_the_same_images_with_the_same_command(overlay):
    resources = overlay("local")
    services = COMPOSE["services"]
    assert services["mlflow"]["command"] == container(resources)["args"]
    for name in ("postgres", "s3"):
        (of_cluster,) = find(resources, "StatefulSet", name)["spec"]["template"]["spec"]["containers"]
        assert services[name]["image"] == of_cluster["image"]
    assert services["s3"]["command"] == of_cluster["args"]
    (job,) = find(resources, "Deployment", "mlflow")["spec"]["template"]["spec"]["initContainers"]
    assert services["buckets"]["command"] == job["args"]
    assert services["buckets"]["image"] == job["image"] == container(resources)["image"]
