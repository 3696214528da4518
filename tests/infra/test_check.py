"""`make cluster-check`: what renders, validates and refers to releases passes; the rest is named."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import __version__ as sdk

from infra.k8s import check, policy

ROOT = check.ROOT


def mlflow(resources: list[dict[str, Any]]) -> dict[str, Any]:
    (found,) = (r for r in resources if policy.name(r) == "Deployment mlflow/mlflow")
    return found


def test_every_overlay_passes(capsys):
    assert check.main([]) == 0
    assert re.findall(r"^(\w+): \d+ resources, 0 errors$", capsys.readouterr().out, re.M) == [
        "kserve",
        "local",
        "nodes",
        "production",
    ]


def test_before_a_deployment_digests_can_be_asked_for(capsys):
    assert check.main(["--digests"]) == 1
    said = capsys.readouterr().err
    assert "error: production: Deployment mlflow/mlflow, container mlflow: image registry.example.com" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r: mlflow(r)["spec"].update(replica=2), "'replica' was unexpected"),
        (lambda r: mlflow(r)["spec"].update(replicas="two"), "spec.replicas: 'two' is not of type"),
        (lambda r: mlflow(r)["spec"].pop("selector"), "'selector' is a required property"),
        (lambda r: mlflow(r).update(apiVersion="apps/v2"), "has no Deployment of apps/v2"),
        (lambda r: mlflow(r).update(apiVersion="extensions/v1beta1"), "has no Deployment of extensions/v1beta1"),
        (lambda r: mlflow(r).update(kind="Deploymant"), "has no Deploymant of apps/v1"),
        (lambda r: r.append(mlflow(r)), "is there twice"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_a_cluster_would_refuse_is_refused(change, said, overlay):
    resources = overlay("local")
    change(resources)
    assert any(said in sentence for sentence in check.troubles(resources))


def test_a_folder_that_does_not_render_is_named(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("resources: [gone.yaml]\n")
    with pytest.raises(check.CheckError, match=rf"{tmp_path.name}: does not render: .*gone\.yaml"):
        check.render(tmp_path)


def test_what_the_next_release_of_kustomize_refuses_is_refused_now(tmp_path):
    (tmp_path / "kustomization.yaml").write_text("commonLabels: {a: b}\n")
    with pytest.raises(check.CheckError, match=r"renders with a warning: .*commonLabels"):
        check.render(tmp_path)


def test_without_a_renderer_and_without_go_one_sentence_says_so(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(check, "ROOT", tmp_path)
    with pytest.raises(check.CheckError, match="neither kustomize nor kubectl is installed"):
        check.renderer()


def test_kubeflow_is_referenced_at_a_release_of_the_sdks_minor_version():
    """A patch of the SDK needs no patch of the backend; 2.17.0 is what the pipeline was run on."""
    found = [
        resource
        for path in check.HERE.rglob("kustomization.yaml")
        for resource in yaml.safe_load(path.read_text()).get("resources", ())
        if "://" in resource
    ]
    assert len(found) == 2
    minor = sdk.rpartition(".")[0]
    assert all(resource.partition("?ref=")[2].startswith(f"{minor}.") for resource in found)
    assert list(check.pinned_releases()) == []


@pytest.mark.parametrize("reference", ["https://example.org/a//b", "https://example.org/a//b?ref=master"])
def test_other_peoples_manifests_need_a_release(reference, monkeypatch, tmp_path):
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump({"resources": [reference]}))
    monkeypatch.setattr(check, "HERE", tmp_path)
    (said,) = check.pinned_releases()
    assert "names no release" in said


def rights(resources: list[dict[str, Any]]) -> set[tuple[str, ...]]:
    """What the one role among the resources opens: resource, verb and, where it is limited to them, names."""
    (role,) = (r for r in resources if r["kind"] == "Role")
    return {
        (resource, verb, *rule.get("resourceNames", ()))
        for rule in role["rules"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.mark.parametrize("name", ["local", "production"])
def test_the_pipelines_account_may_do_what_it_needs_and_no_more(name, overlay):
    assert rights(overlay(name)) == {
        ("workflowtaskresults", "create"),
        ("workflowtaskresults", "patch"),
        ("workflows", "get"),
        ("configmaps", "get", "kfp-launcher"),
        ("secrets", "get", "mlpipeline-minio-artifact"),
    }


def test_training_on_several_nodes_may_also_make_follow_and_remove_trainjobs(overlay):
    assert rights(overlay("nodes")) == {
        *((kind, verb) for kind in ("trainjobs", "trainingruntimes") for verb in ("create", "get", "delete")),
        ("pods", "list"),
        ("pods/log", "get"),
    }


def test_mlflow_answers_by_its_own_names_only_and_runs_no_jobs(overlay):
    for name in ("local", "production"):
        resources = overlay(name)
        (config,) = (r["data"] for r in resources if r["kind"] == "ConfigMap")
        hosts = config["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
        assert "*" not in hosts and {"mlflow.mlflow", "mlflow.mlflow:*"} <= set(hosts)
        env = {v["name"]: v.get("value") for v in mlflow(resources)["spec"]["template"]["spec"]["containers"][0]["env"]}
        assert env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    assert "mlflow.example.com" in hosts


def test_the_pods_find_credentials_under_the_names_that_the_pipeline_asks_for():
    from pipeline.dag import SECRET_KEYS

    script = (check.HERE / "overlays/local/secrets").read_text()
    given = set(re.findall(r"^([A-Z_]+)=", script.partition("make_secret kubeflow segmodels")[2], re.M))
    assert given <= set(SECRET_KEYS) and "MLFLOW_TRACKING_PASSWORD" in given


def test_the_local_secrets_are_made_once_from_random_values_that_no_argument_shows(tmp_path):
    """With a stand-in for kubectl: there is no cluster here. It keeps what it is given, as a cluster does."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(
        """#!/usr/bin/env bash
        set -eu
        cd "$(dirname "$0")"
        echo "$*" >> arguments
        case "$*" in
            *"get secret "*) test -e "$2-${*: -1}" ;;
            "get namespace"*) true ;;
            *"create secret generic"*) echo "$2-${*:6:1}"; cat /dev/stdin ;;
            *"create --filename -") read -r name; cat > "$name" ;;
        esac
        """.replace("\n        ", "\n")
    )
    kubectl.chmod(0o755)
    script = [str(check.HERE / "overlays/local/secrets")]
    env = {"PATH": "/usr/bin:/bin", "KUBECTL": str(kubectl)}
    subprocess.run(script, env=env, check=True, timeout=60)
    secrets = {path.name: path.read_text() for path in tmp_path.glob("*-*")}
    assert set(secrets) == {"mlflow-mlflow", "mlflow-mlflow-database", "kubeflow-segmodels", "segmodels-serving"}
    values = [line.partition("=")[2] for text in secrets.values() for line in text.splitlines()]
    assert all(value and value not in (tmp_path / "arguments").read_text() for value in values if len(value) > 20)
    again = subprocess.run(script, env=env, check=True, timeout=60, capture_output=True, text=True)
    assert "there already" in again.stdout
    assert secrets == {path.name: path.read_text() for path in tmp_path.glob("*-*")}
    (tmp_path / "mlflow-mlflow").unlink()
    partly = subprocess.run(script, env=env, timeout=60, capture_output=True, text=True)
    assert partly.returncode == 1 and "only some of the secrets are there" in partly.stderr


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
def test_kubectl_takes_a_secrets_values_from_standard_input(tmp_path):
    command = ["kubectl", "create", "secret", "generic", "x", "--from-env-file=/dev/stdin", "--dry-run=client"]
    done = subprocess.run(
        [*command, "--output", "yaml"], input="A=b\nC=d=e\n", capture_output=True, text=True, timeout=60, check=True
    )
    assert yaml.safe_load(done.stdout)["data"] == {"A": "Yg==", "C": "ZD1l"}


def test_the_compose_file_gets_its_passwords_once(tmp_path: Path):
    (tmp_path / "env").write_bytes((ROOT / "infra/env").read_bytes())
    for _ in range(2):
        subprocess.run(["bash", str(tmp_path / "env")], check=True, timeout=60)
    written = (tmp_path / ".env").read_text()
    assert (tmp_path / ".env").stat().st_mode & 0o077 == 0
    asked = set(re.findall(r"\$\{(\w+):\?", check.COMPOSE.read_text()))
    assert asked <= set(re.findall(r"^(\w+)=\S+$", written, re.M))
    subprocess.run(["bash", str(tmp_path / "env")], check=True, timeout=60)
    assert (tmp_path / ".env").read_text() == written


def server(resources: list[dict[str, Any]]) -> dict[str, Any]:
    """The container that serves the champion."""
    (found,) = (c for where, c, _ in policy.containers(resources) if "segmodels/" in where)
    return found


@pytest.mark.parametrize("name", ["kserve", "local", "production"])
def test_the_champion_is_served_by_the_image_of_the_steps_with_probes_and_time_to_drain(name, overlay):
    resources = overlay(name)
    container = server(resources)
    assert re.search(r"(^|/)segmodels:0\.1\.0$", container["image"])
    assert container["args"][:3] == ["segmodels", "serve", "models:/segmentation@champion"]
    probes = {kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("liveness", "readiness")}
    assert probes == {"liveness": "/health", "readiness": "/ready"}
    (grace,) = (p["terminationGracePeriodSeconds"] for w, p in policy.pods(resources) if "segmodels/" in w)
    (drain,) = (int(a.partition("=")[2]) for a in container["args"] if a.startswith("--drain="))
    assert grace > drain + container["lifecycle"]["preStop"]["sleep"]["seconds"]


def test_the_options_of_the_served_container_are_those_of_the_command_line(overlay):
    from typer.main import get_command

    import segmodels.cli  # noqa: F401, which registers the commands
    from segmodels.cli.common import app

    command = get_command(app).commands["serve"]  # type: ignore[attr-defined]
    known = {name for parameter in command.params for name in parameter.opts}
    given = {a.partition("=")[0] for a in server(overlay("production"))["args"] if a.startswith("--")}
    assert given and given <= known


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda p: p.update(minReplica=2), "'minReplica' was unexpected"),
        (lambda p: p["containers"][0].update(imagee="x"), "'imagee' was unexpected"),
        (lambda p: p["containers"][0]["securityContext"].pop("readOnlyRootFilesystem"), "may change its own image"),
        (lambda p: p["containers"][0]["resources"].pop("limits"), "no limits for cpu"),
        (lambda p: p.pop("serviceAccountName"), "its account default is not one of ours"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_inference_service_is_held_to_what_pods_are_held_to(change, said, overlay):
    resources = overlay("kserve")
    (service,) = (r for r in resources if r["kind"] == "InferenceService")
    change(service["spec"]["predictor"])
    assert any(said in sentence for sentence in check.troubles(resources))


def test_an_autoscaler_of_nothing_is_named(overlay):
    resources = overlay("local")
    (scaler,) = (r for r in resources if r["kind"] == "HorizontalPodAutoscaler")
    scaler["spec"]["scaleTargetRef"]["name"] = "server"
    assert any("there is no Deployment server" in sentence for sentence in check.troubles(resources))
