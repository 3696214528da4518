"""The pipeline: the six steps, with an arm for each architecture.

    download ─▶ validate ─┬▶ train-enet ─▶ evaluate-enet ─┬▶ register ─▶ report
                          └▶ train-unet ─▶ evaluate-unet ─┘
                                                     finish, whatever happened

The arms are written out by a Python loop when the pipeline is built, so that each has resources of its own. A task is
given only the settings that its step reads, and the hashes of what it reads (code, image, data, weights): Kubeflow's
cache compares parameters, not the content of artifacts.
"""

import copy
import dataclasses
import json
import re
from dataclasses import dataclass
from typing import Any

from kfp import dsl, kubernetes

from components import lineage, notify
from components.download.component import download, fingerprint
from components.errors import StepError
from components.evaluate.component import evaluate
from components.params import Params, Resources, evaluate_settings, resources, train_settings
from components.register import component as register
from components.report import component as report
from components.task import IMAGE, arms, task_name
from components.tracking import THROUGH_MLFLOW, public_uri
from components.train.component import train
from components.validate.component import validate
from pipeline import nodes
from pipeline.finish import finish

NAME = "segmentation"
# The steps that only read and write a few files.
SMALL = Resources(cpu="2", memory="4Gi", gpu=0)
RETRIES, BACKOFF, BACKOFF_FACTOR = 2, "60s", 2.0
# A node of this kind is expected to go, perhaps several times in a long training; a pause that doubled each time would
# last for days.
SPOT_RETRIES, SPOT_BACKOFF_FACTOR = 20, 1.0
# Argo counts from the start of the first attempt: after that time nothing is tried again, and what runs is ended. A
# training may take weeks (workflow/controller/operator.go, processNodeRetries, of Argo Workflows 4.0.5).
BACKOFF_MAX = f"{365 * 24}h"
RETRIED = ("fingerprint", "download", "train", "evaluate", "register")
# The sections of the settings that a step reads.
READS = {
    "fingerprint": ("task", "seed", "data"),
    "download": ("task", "seed", "data"),
    "validate": ("task", "validate"),
    "train": ("task", "seed", "data", "train"),
    "evaluate": (),
}
# The steps that talk to MLflow or a bucket.
REACH_OUT = ("fingerprint", "download", "train", "register")
CACHE = "/cache"
# The keys of the secret that become environment variables; a key that it lacks is left out.
SECRET_KEYS = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "MLFLOW_S3_ENDPOINT_URL",
    "MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
)


@dataclass(frozen=True)
class Cluster:
    """What pods need and the settings do not say.

    Attributes:
        image: The image of every task. Only a digest (`name@sha256:…`) fixes its content.
        tracking_uri: MLflow's address as the pods see it.
        secret: Kubernetes secret with the credentials of S3 and MLflow, its keys named like their variables.
        cache_claim: Persistent volume claim that keeps downloads and the state of trainings between attempts.
        state: Address in the object store, below which trainings keep their state: an attempt on another node goes on.
        data_remote: DVC remote from which the dataset folder is taken; empty downloads it from its source.
        data_md5: The version of the folder that is taken, its hash in dvc.lock.

    Raises:
        StepError: The image's tag moves, or the address has a password.
    """

    image: str = IMAGE
    tracking_uri: str = "http://mlflow:5000"
    secret: str | None = None
    cache_claim: str | None = None
    state: str | None = None
    data_remote: str = ""
    data_md5: str = ""

    def __post_init__(self) -> None:
        tag = self.image.rpartition("/")[2].partition("@")[0].partition(":")[2]
        if self.digest is None and tag in ("", "latest"):
            raise StepError(f"image {self.image}: this name moves; give it a version or, better, a digest")
        if self.state and not re.match(r"s3://[^/]", self.state):
            raise StepError(f"state {public_uri(self.state)}: trainings keep their state at s3://bucket/prefix")
        if not re.match(r"https?://", self.tracking_uri):
            raise StepError(f"tracking address {public_uri(self.tracking_uri)}: pods need the http address of a server")
        if public_uri(self.tracking_uri) != self.tracking_uri:
            raise StepError(
                f"tracking address {public_uri(self.tracking_uri)}: it has a password, which everybody could read in "
                "the pipeline; put MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD into a secret"
            )

    @property
    def digest(self) -> str | None:
        """`sha256:…`, or None where the image is named by a tag alone."""
        return self.image.partition("@")[2] or None


def build(params: Params, cluster: Cluster | None = None, *, recurring: bool = False) -> Any:
    """Return the pipeline of these settings.

    Args:
        params: All settings; they are fixed in the pipeline.
        cluster: What its pods need; None builds it for `kfp.local`, without retries and environment.
        recurring: It begins with a task that takes the hash of the data, under which all others are cached. Kubeflow
            counts a dataset that was downloaded again as another input, whatever is in it: without this task each run
            would train anew.

    Raises:
        StepError: Kubernetes would refuse the keys or the resources.
    """
    names = arms(params.models)
    commit, dirty = lineage.code()
    code = {
        "git_commit": commit,
        "git_dirty": dirty,
        "image_digest": (cluster.digest if cluster else None) or lineage.NONE,
    }

    def task(step: str, component: Any, key: str | None = None, **arguments: Any) -> Any:
        if key is not None:
            component, arguments = _named(component, task_name(step, names[key])), {"key": key, **arguments}
        made = component(settings=settings_for(params, step, key), **code, **arguments)
        _place(made, params, step, key, cluster)
        return made

    @dsl.pipeline(name=NAME, description="From a dataset to registered segmentation models.")
    def segmentation() -> None:
        finished = finish()
        _place(finished, params, "finish", None, cluster)
        with dsl.ExitHandler(finished, name="steps"):
            pinned = {"dvc_remote": cluster.data_remote, "dvc_md5": cluster.data_md5} if cluster else {}
            if recurring:
                pinned = {"dvc_md5": task("fingerprint", fingerprint).output}
            downloaded = task("download", download, **{"dvc_remote": "", "dvc_md5": "", **pinned})
            if recurring:
                downloaded.set_caching_options(True)
            given = {"data": downloaded.outputs["data"], "data_md5": downloaded.outputs["Output"]}
            validated = task("validate", validate, **given)
            results = {**given, "validation": validated.outputs["validation"]}
            for key, name in names.items():
                trained = task("train", train, key, **given).after(validated)
                weights = {"model": trained.outputs["model"], "model_sha256": trained.outputs["Output"]}
                evaluated = task("evaluate", evaluate, key, **given, **weights)
                results[f"model_{name}"] = trained.outputs["model"]
                results[f"evaluation_{name}"] = evaluated.outputs["evaluation"]
            registered = task("register", register.component(names), **results)
            task("report", report.component(names), **results, registered=registered.outputs["registered"])

    return segmentation


def settings_for(params: Params, step: str, key: str | None = None) -> str:
    """Return the settings that a step reads, as JSON: a change elsewhere must not make its cached result useless."""
    full = params.model_dump(mode="json", by_alias=True)
    if step in ("register", "report"):
        return json.dumps({name: value for name, value in full.items() if name != "resources"})
    some = {name: full[name] for name in READS[step]}
    if key is None:
        return json.dumps(some | {"models": {"any": {}}})  # settings have a model; these steps do not look at it
    some["evaluate"] = dataclasses.asdict(evaluate_settings(params, key))
    if step == "evaluate":
        return json.dumps(some | {"models": {key: {"architecture": params.architecture(key)}}})
    # The run in MLflow is found by all settings of a model, those of its evaluation too.
    return json.dumps(
        some | {"models": {key: full["models"][key]}, "register": {"experiment": params.register_.experiment}}
    )


def cached(params: Params, step: str, key: str | None, cluster: Cluster | None) -> bool:
    """Tell whether the parameters of a task say all that its result depends on."""
    # A name without digest may hold another image tomorrow.
    if cluster is None or cluster.digest is None:
        return False
    if step == "download":
        return bool(cluster.data_md5) or params.data.source == "streets" or params.data.sha256 is not None
    if step == "train" and key is not None:
        return train_settings(params, key).weights is None
    return step in ("validate", "evaluate")  # the others read or write what MLflow has now


def _workers(params: Params, key: str, needs: Resources) -> bool:
    """Tell whether a training has processes that load data; `auto` has some beside a GPU."""
    workers = train_settings(params, key).workers
    return needs.gpu > 0 if workers == "auto" else workers > 0


def _place(task: Any, params: Params, step: str, key: str | None, cluster: Cluster | None) -> None:
    """Resources, image, environment, retries and caching of a task."""
    task.set_caching_options(cached(params, step, key, cluster))
    if cluster is None:
        return
    needs = resources(params, key) if key is not None else SMALL
    if step == "train" and needs.nodes > 1:
        _on_nodes(task, needs, str(key), cluster)
        # The task itself watches.
        needs = SMALL.model_copy(update={"timeout": needs.timeout, "priority": needs.priority})
    try:
        task.set_cpu_request(needs.cpu).set_cpu_limit(needs.cpu)
        task.set_memory_request(needs.memory).set_memory_limit(needs.memory)
    except ValueError as error:
        raise StepError(f"resources of {key}: {error}") from None
    if needs.gpu:
        task.set_accelerator_type(needs.gpu_type).set_accelerator_limit(needs.gpu if step == "train" else 1)
    _choose_nodes(task, needs)
    if needs.priority:
        kubernetes.add_pod_label(task, nodes.PRIORITY_LABEL, needs.priority)
    if needs.timeout:
        kubernetes.set_timeout(task, needs.timeout_seconds)
    if step in RETRIED:
        retries, factor = (SPOT_RETRIES, SPOT_BACKOFF_FACTOR) if needs.spot else (RETRIES, BACKOFF_FACTOR)
        task.set_retry(retries, BACKOFF, factor, BACKOFF_MAX)
    task.set_container_image(cluster.image)
    if step == "train" and key is not None and (_workers(params, key, needs) or needs.gpu > 1):
        limit = needs.shm or None
        kubernetes.empty_dir_mount(task, volume_name="shm", mount_path="/dev/shm", medium="Memory", size_limit=limit)
    if step in REACH_OUT:
        task.set_env_variable("MLFLOW_TRACKING_URI", cluster.tracking_uri)
        for name, value in THROUGH_MLFLOW.items():
            task.set_env_variable(name, value)
        # The run's id as a parameter would make every run a new key of the cache.
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
        if cluster.secret:
            kubernetes.use_secret_as_env(task, cluster.secret, {name: name for name in SECRET_KEYS}, optional=True)
    if step == "finish":
        kubernetes.use_field_path_as_env(task, "KFP_RUN_ID", "metadata.labels['pipeline/runid']")
        if cluster.secret:
            kubernetes.use_secret_as_env(task, cluster.secret, {notify.VARIABLE: notify.VARIABLE}, optional=True)
    if step in ("fingerprint", "download", "train") and cluster.cache_claim:
        kubernetes.mount_pvc(task, cluster.cache_claim, CACHE)
        task.set_env_variable("SEGMODELS_CACHE", CACHE)
    if step == "train" and cluster.state:
        task.set_env_variable("SEGMODELS_STATE", cluster.state)


def _on_nodes(task: Any, needs: Resources, key: str, cluster: Cluster) -> None:
    """Tell the training which pods its TrainJob has."""
    if not cluster.cache_claim:
        raise StepError(
            f"resources.{key}.nodes: {needs.nodes} nodes share data and state by a volume that all of them mount: name "
            "its claim (ReadWriteMany) with --cache-claim"
        )
    wanted = nodes.of_trainjob(needs, image=cluster.image, claim=cluster.cache_claim, mounted=CACHE)
    task.set_env_variable("SEGMODELS_TRAINJOB", json.dumps(wanted))


def _choose_nodes(task: Any, needs: Resources) -> None:
    for label, value in needs.node_selector.items():
        kubernetes.add_node_selector(task, label, value)
    for accepted in nodes.tolerations(needs):
        kubernetes.add_toleration(task, **accepted)
    for preferred in nodes.preferences(needs):
        kubernetes.add_node_affinity(task, match_expressions=[preferred], weight=nodes.WEIGHT)


def _named(component: Any, name: str) -> Any:
    """Return the component under another name: its task is `train-enet`, whichever arms there are, not `train-3`."""
    renamed = copy.copy(component)
    renamed.component_spec = dataclasses.replace(component.component_spec, name=name)
    renamed.name = name
    return renamed
