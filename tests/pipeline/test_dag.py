"""The pipeline as it is compiled: its tasks, what Kubernetes and the cache are told, and what must not be in it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from kfp import dsl
from kfp.compiler import Compiler
from PIL import Image

from components.download.component import download, fingerprint
from components.errors import StepError
from components.lineage import params_hash
from components.params import Params, Register, Validate
from components.rules import Rule, gate_rules
from pipeline.dag import Cluster, build, settings_for

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = Path(__file__).with_name("golden")
ARMS = Params.read(Path(__file__).with_name("settings") / "arms.yaml")
DIGEST = "sha256:" + "0123456789abcdef" * 4
PINNED = Cluster(image=f"registry.example/segmodels@{DIGEST}")


def compiled(params: Params, cluster: Cluster | None, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """The pipeline's specification and that of its platform."""
    Compiler().compile(build(params, cluster), str(folder / "pipeline.yaml"))
    spec, *platform = yaml.safe_load_all((folder / "pipeline.yaml").read_text())
    return spec, platform[0] if platform else {}


def tasks(spec: dict[str, Any]) -> dict[str, Any]:
    """All tasks by name, those in the exit handler's group first."""
    return spec["components"]["comp-exit-handler-1"]["dag"]["tasks"] | {
        "finish": spec["root"]["dag"]["tasks"]["finish"]
    }


def container(spec: dict[str, Any], task: str) -> dict[str, Any]:
    return spec["deploymentSpec"]["executors"][f"exec-{task}"]["container"]


def constants(task: dict[str, Any]) -> dict[str, Any]:
    """The parameters whose values are fixed in the pipeline."""
    given = task["inputs"]["parameters"]
    return {name: value["runtimeValue"]["constant"] for name, value in given.items() if "runtimeValue" in value}


def table(spec: dict[str, Any], platform: dict[str, Any]) -> str:
    """Every task with what it waits for, what it is given and on which nodes it runs, a line each."""
    lines = []
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name, task in tasks(spec).items():
        pod = pods.get(f"exec-{name}", {})
        needs = container(spec, name)["resources"]
        gpu = needs.get("accelerator", {})
        retry = task.get("retryPolicy", {})
        lines.append(
            f"{name}\n"
            f"    after {', '.join(task.get('dependentTasks', ['-']))}\n"
            f"    cpu {needs['resourceCpuLimit']}, memory {needs['resourceMemoryLimit']}, "
            f"gpu {gpu.get('resourceCount', 0)} {gpu.get('resourceType', '')}".rstrip()
            + f"\n    tried again {retry.get('maxRetryCount', 0)} times"
            + (f" after {retry['backoffDuration']}, x{retry['backoffFactor']:g}" if retry else "")
            + f"\n    cached {str(task['cachingOptions'].get('enableCache', False)).lower()}\n"
            + "".join(f"    {line}\n" for line in placed(pod))
        )
    return "".join(lines)


def placed(pod: dict[str, Any]) -> list[str]:
    """What a pod's platform configuration says of nodes, time and memory."""
    lines = [f"on nodes with {label}={value}" for label, value in pod.get("nodeSelector", {}).get("labels", {}).items()]
    lines += [
        f"accepts {one['key']}{'=' + one['value'] if 'value' in one else ''} {one.get('effect', '')}".rstrip()
        for one in pod.get("tolerations", ())
    ]
    for term in pod.get("nodeAffinity", ()):
        (expression,) = term["matchExpressions"]
        lines.append(f"rather on {expression['key']} in {expression['values']}, {term['weight']}")
    lines += [f"label {key}={value}" for key, value in pod.get("podMetadata", {}).get("labels", {}).items()]
    lines += [f"ends after {pod['activeDeadlineSeconds']} s"] if "activeDeadlineSeconds" in pod else []
    lines += [
        f"{mount['mountPath']} in {mount['medium'].lower()}, at most {mount.get('sizeLimit', 'its memory')}"
        for mount in pod.get("emptyDirMounts", ())
    ]
    return lines


@pytest.fixture(scope="module")
def pinned(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any]]:
    return compiled(ARMS, PINNED, tmp_path_factory.mktemp("pinned"))


def test_tasks_their_order_resources_nodes_retries_and_caching(pinned):
    assert table(*pinned) == (GOLDEN / "tasks.txt").read_text()


def test_a_training_of_weeks_is_tried_again_and_no_pause_lasts_for_hours(pinned):
    """As Argo 4.0.5 computes it (workflow/controller/operator.go, processNodeRetries).

    Nothing is tried again once `maxDuration` has passed since the first attempt began, and what runs then is ended.
    """
    retried = {name: task["retryPolicy"] for name, task in tasks(pinned[0]).items() if "retryPolicy" in task}
    assert {name.partition("-")[0] for name in retried} == {"download", "train", "evaluate", "register"}
    for policy in retried.values():
        seconds, longest = (int(policy[name].rstrip("s")) for name in ("backoffDuration", "backoffMaxDuration"))
        assert longest >= 90 * 24 * 3600
        assert seconds * policy["backoffFactor"] ** (policy["maxRetryCount"] - 1) <= 15 * 60


def test_the_same_steps_and_architectures_as_dvc(tmp_path):
    params = Params.read(ROOT / "params.yaml")
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    in_dvc = {
        f"{stage}-{key}".replace("_", "-") if "foreach" in body or "matrix" in body else stage
        for stage, body in stages.items()
        for key in params.models
        if stage
        not in ("code", "summary")  # what DVC alone needs: Kubeflow has the image's digest, and metrics of its own
    }
    assert set(tasks(compiled(params, PINNED, tmp_path)[0])) == in_dvc | {"finish"}


def test_a_fan_in_takes_the_typed_artifacts_of_every_arm(pinned):
    inputs = pinned[0]["components"]["comp-register"]["inputDefinitions"]["artifacts"]
    kinds = {name: spec["artifactType"]["schemaTitle"] for name, spec in inputs.items()}
    assert kinds == {"data": "system.Dataset", "validation": "system.Artifact"} | {
        f"{name}_{arm}": kind
        for arm in ("segnet_basic", "enet", "u_net")
        for name, kind in (("model", "system.Model"), ("evaluation", "system.Artifact"))
    }


def test_the_outputs_are_typed(pinned):
    kinds = {
        output["artifactType"]["schemaTitle"].removeprefix("system.")
        for component in pinned[0]["components"].values()
        for output in component.get("outputDefinitions", {}).get("artifacts", {}).values()
    }
    assert kinds == {"Dataset", "Model", "Metrics", "ClassificationMetrics", "HTML", "Markdown", "Artifact"}


def test_every_task_is_given_the_code_and_the_image_and_the_arms_the_hash_of_data_and_weights(pinned):
    for name, task in tasks(pinned[0]).items():
        if name != "finish":
            given = constants(task)
            assert given["image_digest"] == DIGEST
            assert re.fullmatch(r"[0-9a-f]{40}|unknown", given["git_commit"])
        if name not in ("finish", "download"):
            assert task["inputs"]["parameters"]["data_md5"]["taskOutputParameter"]["producerTask"] == "download"
    weights = tasks(pinned[0])["evaluate-enet"]["inputs"]["parameters"]["model_sha256"]
    assert weights["taskOutputParameter"] == {"outputParameterKey": "Output", "producerTask": "train-enet"}


@pytest.mark.parametrize(
    ("section", "value", "touched"),
    [
        ("validate_", Validate(overlays=1), {"validate"}),
        ("register_", Register(rules={"miou": Rule(floor=0.5)}), set()),
        ("resources", {}, set()),
        ("seed", 7, {"download", "train-enet"}),
    ],
)
def test_a_setting_changes_the_cache_key_of_those_tasks_alone_that_read_it(section, value, touched):
    changed = ARMS.model_copy(update={section: value})
    steps = {"download": None, "validate": None, "train-enet": "enet", "evaluate-enet": "enet"}
    different = {
        name
        for name, key in steps.items()
        if settings_for(ARMS, name.partition("-")[0], key) != settings_for(changed, name.partition("-")[0], key)
    }
    assert different == touched


@pytest.mark.parametrize("key", ARMS.models)
@pytest.mark.parametrize("step", ["train", "register", "report"])
def test_a_task_finds_the_run_of_its_model_with_the_settings_it_is_given(step, key):
    given = Params.parse(json.loads(settings_for(ARMS, step, key if step == "train" else None)))
    assert params_hash(given, key) == params_hash(ARMS, key)
    assert given.register_.experiment == ARMS.register_.experiment


@pytest.mark.parametrize("step", ["register", "report"])
def test_a_task_holds_models_against_the_rules_of_the_settings(step):
    """A rule that names one limit of a figure leaves its others as they are, behind the pipeline too."""
    params = Params.parse({"models": {"enet": {}}, "register": {"rules": {"miou": {"floor": 0.3}}}})
    given = Params.parse(json.loads(settings_for(params, step)))
    assert gate_rules(given) == gate_rules(params)
    assert gate_rules(given)["miou"] == Rule(floor=0.3, gain=0.005)


def test_an_image_without_digest_caches_nothing(tmp_path):
    spec, _ = compiled(ARMS, Cluster(image="segmodels:1.0"), tmp_path)
    assert not any(task["cachingOptions"].get("enableCache") for task in tasks(spec).values())


@pytest.mark.parametrize(
    ("data", "enabled"),
    [
        ({"source": "https://example.org/a.zip"}, False),
        ({"source": "https://example.org/a.zip", "sha256": "0" * 64}, True),
        ({"source": "streets"}, True),
    ],
)
def test_a_download_is_cached_where_its_content_is_pinned(data, enabled, tmp_path):
    spec, _ = compiled(Params.parse({"data": data, "models": {"enet": {}}}), PINNED, tmp_path)
    assert tasks(spec)["download"]["cachingOptions"].get("enableCache", False) is enabled


@pytest.mark.parametrize("image", ["segmodels", "segmodels:latest", "registry.example:5000/team/segmodels"])
def test_a_name_that_moves_is_refused(image):
    with pytest.raises(StepError, match=f"image {image}: this name moves"):
        Cluster(image=image)


@pytest.mark.parametrize("uri", ["sqlite:///mlflow.db", "mlruns", "http://user:secret@mlflow:5000"])
def test_a_tracking_address_that_pods_cannot_use_or_that_has_a_password_is_refused(uri):
    with pytest.raises(StepError, match=r"^tracking address [^ ]+: ") as caught:
        Cluster(tracking_uri=uri)
    assert "secret@" not in str(caught.value)


def test_credentials_are_named_and_never_written(tmp_path, monkeypatch):
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD", "KF_PIPELINES_TOKEN"):
        monkeypatch.setenv(name, "hunter2")
    cluster = dataclasses.replace(PINNED, secret="credentials", cache_claim="cache")
    _, platform = compiled(ARMS, cluster, tmp_path)
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    with_secret = {name for name, pod in pods.items() if "secretAsEnv" in pod}
    names = ("download", "train-segnet-basic", "train-enet", "train-u-net", "register", "finish")
    assert with_secret == {f"exec-{name}" for name in names}
    # The last task may tell of a failure, and gets no other credentials.
    (only,) = pods["exec-finish"]["secretAsEnv"]
    assert [one["secretKey"] for one in only["keyToEnv"]] == ["SEGMODELS_NOTIFY_URL"]
    assert "hunter2" not in (tmp_path / "pipeline.yaml").read_text()


def test_pods_get_the_image_the_tracking_address_and_the_id_of_their_run(pinned):
    spec, platform = pinned
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for name in tasks(spec):
        assert container(spec, name)["image"] == PINNED.image
    for name in ("train-enet", "register"):
        variables = {one["name"]: one["value"] for one in container(spec, name)["env"]}
        assert variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
        assert variables["MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD"] == "false"
        assert pods[f"exec-{name}"]["fieldPathAsEnv"][0]["name"] == "KFP_RUN_ID"


def test_gpus_are_tolerated_and_workers_share_memory(pinned):
    pods = pinned[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert "amd.com/gpu" in {one["key"] for one in pods["exec-train-u-net"]["tolerations"]}
    assert pods["exec-train-u-net"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"
    assert "emptyDirMounts" not in pods["exec-train-enet"]


def test_a_cache_claim_keeps_trainings_between_attempts(tmp_path):
    spec, platform = compiled(ARMS, dataclasses.replace(PINNED, cache_claim="cache"), tmp_path)
    assert {"name": "SEGMODELS_CACHE", "value": "/cache"} in container(spec, "train-enet")["env"]
    pods = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert pods["exec-train-enet"]["pvcMount"][0]["mountPath"] == "/cache"


def test_nothing_compiled_is_secret_or_can_move(tmp_path, monkeypatch):
    """The whole file, platform included: every image by its digest, no value of a variable that looks like a secret."""
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, "hunter2")
    cluster = dataclasses.replace(PINNED, secret="credentials", cache_claim="cache", state="s3://bucket/states")
    compiled(ARMS, cluster, tmp_path)
    text = (tmp_path / "pipeline.yaml").read_text()
    images = set(re.findall(r"(?m)^\s*image: (\S+)", text))
    assert images == {PINNED.image}
    assert "hunter2" not in text
    for match in re.finditer(r"(?m)^\s*- name: (\w*(?:SECRET|PASSWORD|TOKEN|KEY)\w*)\n\s*value: ", text):
        pytest.fail(f"{match[1]} has its value in the pipeline")


def test_trainings_keep_their_state_in_the_object_store(tmp_path):
    spec, _ = compiled(ARMS, dataclasses.replace(PINNED, state="s3://bucket/states"), tmp_path)
    assert {"name": "SEGMODELS_STATE", "value": "s3://bucket/states"} in container(spec, "train-enet")["env"]
    with pytest.raises(StepError, match="state /somewhere: trainings keep their state at s3://"):
        dataclasses.replace(PINNED, state="/somewhere")


def test_a_training_on_several_nodes_watches_a_trainjob_and_needs_a_volume_that_all_mount(tmp_path):
    params = Params.parse({"models": {"enet": {}}, "resources": {"enet": {"nodes": 2, "gpu": 4, "timeout": "2d"}}})
    with pytest.raises(StepError, match=r"resources.enet.nodes: 2 nodes share data .* --cache-claim"):
        build(params, PINNED)
    spec, platform = compiled(params, dataclasses.replace(PINNED, cache_claim="cache"), tmp_path)
    pod = container(spec, "train-enet")
    wanted = json.loads(next(v["value"] for v in pod["env"] if v["name"] == "SEGMODELS_TRAINJOB"))
    assert (wanted["count"], wanted["processes"]) == (2, 4)
    assert wanted["container"]["image"] == PINNED.image
    assert "accelerator" not in pod["resources"]
    assert container(spec, "evaluate-enet")["resources"]["accelerator"]["resourceCount"] == "1"
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert executors["exec-train-enet"]["activeDeadlineSeconds"] == "172800"


def test_two_keys_with_one_name_are_refused():
    params = Params.parse({"models": {"enet-a": {"architecture": "enet"}, "enet_a": {"architecture": "enet"}}})
    with pytest.raises(StepError, match="'enet-a' and 'enet_a' have the same name in a pipeline"):
        build(params)


def test_resources_that_kubernetes_would_refuse_are_named():
    params = Params.parse({"models": {"enet": {}}, "resources": {"enet": {"memory": "16 gigabytes"}}})
    with pytest.raises(StepError, match="resources of enet: "):
        build(params, PINNED)


PRESETS = sorted(path.stem for path in (ROOT / "conf/preset").glob("*.yaml"))
DATASETS = sorted(path.stem for path in (ROOT / "conf/dataset").glob("*.yaml"))


# The two say nothing of each other's settings: each is compiled once with one of the other. The arms of the zoo are
# compiled by tests/components/test_every_architecture.py.
@pytest.mark.parametrize(
    ("preset", "dataset"),
    [*((p, "camvid") for p in PRESETS if p != "zoo"), *(("quick", d) for d in DATASETS if d != "camvid")],
)
def test_every_preset_compiles(preset, dataset, tmp_path):
    from dvc.utils.hydra import compose_and_dump

    compose_and_dump(
        tmp_path / "params.yaml",
        str(ROOT / "conf"),
        None,
        "config",
        str(ROOT / "conf"),
        [f"preset={preset}", f"dataset={dataset}", *(["data.source=mine"] if dataset == "folder" else [])],
    )
    params = Params.read(tmp_path / "params.yaml")
    spec, _ = compiled(params, PINNED, tmp_path)
    assert len(tasks(spec)) == 2 * len(params.models) + 5


def test_a_recurring_pipeline_caches_everything_under_the_hash_that_its_first_task_takes(tmp_path):
    params = Params.parse({"data": {"source": "s3://bucket/labelled"}, "models": {"unet": {}}})
    once, _ = compiled(params, PINNED, tmp_path)
    assert not tasks(once)["download"]["cachingOptions"].get("enableCache")
    Compiler().compile(build(params, PINNED, recurring=True), str(tmp_path / "pipeline.yaml"))
    spec = next(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text()))
    cached = {name for name, task in tasks(spec).items() if task["cachingOptions"].get("enableCache")}
    assert cached == {"download", "validate", "train-unet", "evaluate-unet"}
    download = tasks(spec)["download"]["inputs"]["parameters"]
    assert download["dvc_md5"]["taskOutputParameter"]["producerTask"] == "fingerprint"
    assert constants(tasks(spec)["download"])["dvc_remote"] == ""
    for name in ("validate", "train-unet", "evaluate-unet"):
        data = tasks(spec)[name]["inputs"]["parameters"]["data_md5"]["taskOutputParameter"]
        assert data["producerTask"] == "download"


def test_the_fingerprint_is_the_hash_of_the_data_and_changes_with_it(tmp_path, monkeypatch):
    for name in ("GIT_COMMIT", "GIT_DIRTY", "IMAGE_DIGEST"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("SEGMODELS_CACHE", str(tmp_path / "cache"))
    source = tmp_path / "labelled"
    for folder in ("images", "labels"):
        (source / folder).mkdir(parents=True)
    (source / "classes.txt").write_text("road\nsky\n")
    for index in range(12):
        label = np.full((32, 32), index % 2, np.uint8)
        Image.fromarray(label).save(source / "labels" / f"{index:02}.png")
        Image.fromarray(np.dstack([label * 90 + index] * 3)).save(source / "images" / f"{index:02}.png")
    params = Params.parse({"data": {"source": str(source), "format": "folder"}, "models": {"unet": {}}})
    code = {"git_commit": "c0ffee", "git_dirty": "false", "image_digest": "none"}

    def taken() -> str:
        return str(fingerprint.python_func(settings=settings_for(params, "fingerprint"), **code))

    def downloaded(md5: str, folder: str) -> str:
        data = dsl.Dataset(uri=str(tmp_path / folder))
        settings = settings_for(params, "download")
        return str(download.python_func(settings=settings, **code, dvc_remote="", dvc_md5=md5, data=data))

    first = taken()
    assert taken() == first == downloaded(first, "first")
    Image.fromarray(np.full((32, 32, 3), 7, np.uint8)).save(source / "images" / "03.png")
    assert taken() != first
    with pytest.raises(SystemExit):
        downloaded(first, "second")


def test_no_task_hangs_on_a_condition(pinned):
    """Of kfp below 2.18.1 one advisory is about `dsl.If` in the local runner; the DAG has none."""
    text = json.dumps(pinned[0])
    assert "triggerPolicy" in text and '"condition"' not in text
