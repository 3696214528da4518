"""The compiled pipeline: written to a file, submitted to a cluster, or scheduled there."""

from __future__ import annotations

import contextlib
import hashlib
import io
import shutil
import tempfile
from pathlib import Path

from components.errors import StepError
from components.params import Params
from pipeline.cluster import Kubeflow
from pipeline.cluster import schedule as recur
from pipeline.dag import NAME, Cluster, build, cached
from segmodels.files import replaced


def write(
    params: Params,
    cluster: Cluster,
    out: Path,
    *,
    native: bool = False,
    namespace: str | None = None,
    recurring: bool = False,
) -> None:
    """Compile the pipeline to a file.

    Args:
        params: All settings.
        cluster: What its pods need.
        out: The file, `.yaml`; the same settings and code give the same bytes.
        native: Writes resources (`Pipeline`, `PipelineVersion`) for Kubeflow's Kubernetes-native mode, not the IR.
            The version is named by its content, since a cluster does not let it change.
        namespace: Of those resources.
        recurring: It trains only when the data has changed.

    Raises:
        StepError: The file has another ending.
    """
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    if out.suffix not in (".yaml", ".yml"):
        raise StepError(f"{out}: Kubeflow reads YAML; let the name end with .yaml")
    if namespace and not native:
        raise StepError("--namespace: the IR names none; use it with --kubernetes-native, or with submit")
    pipeline = build(params, cluster, recurring=recurring)
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder, out.name)  # the compiler looks at the ending
        Compiler().compile(pipeline, str(made))
        if native:
            version = f"{NAME}-{hashlib.sha256(made.read_bytes()).hexdigest()[:10]}"
            options = KubernetesManifestOptions(
                pipeline_name=NAME,
                pipeline_version_name=version,
                pipeline_version_display_name=version,
                namespace=namespace,
                include_pipeline_manifest=True,
            )
            Compiler().compile(
                pipeline, str(made), kubernetes_manifest_format=True, kubernetes_manifest_options=options
            )
        with replaced(out) as part:
            shutil.copyfile(made, part)


def submit(
    params: Params, cluster: Cluster, kubeflow: Kubeflow, *, experiment: str, run_name: str | None = None
) -> str:
    """Start a run of the pipeline on a cluster; give its id.

    Args:
        params: All settings.
        cluster: What its pods need.
        kubeflow: Where it runs.
        experiment: Made where it does not exist.
        run_name: Name of the run; its time by default.

    Raises:
        StepError: There is no cluster, or it refuses.
    """
    # kfp's client prints addresses of its own.
    with kubeflow.client() as client, contextlib.redirect_stdout(io.StringIO()):
        run = client.create_run_from_pipeline_func(
            build(params, cluster), experiment_name=experiment, run_name=run_name, namespace=kubeflow.namespace
        )
    return str(run.run_id)


def schedule(
    params: Params, cluster: Cluster, kubeflow: Kubeflow, *, experiment: str, name: str, cron: str, enabled: bool
) -> str:
    """Make the pipeline recur on a cluster; give the id of the recurring run.

    Every time, data is fetched and hashed anew; download, training and evaluation are cached under that hash, so that a
    model is trained again only when the data has changed.

    Raises:
        StepError: It would retrain always (nothing is cached) or never (the data is fixed); or there is no cluster.
    """
    if cluster.digest is None:
        raise StepError(
            f"schedule: {cluster.image} names no digest, so nothing is cached and every run would train anew; give "
            "--image NAME@sha256:…"
        )
    if cached(params, "download", None, cluster):
        raise StepError(
            f"schedule: the data never changes ({params.data.source} is fixed by the settings); use submit, or a "
            "data.source without data.sha256"
        )
    with tempfile.TemporaryDirectory() as folder:
        package = Path(folder) / "pipeline.yaml"
        write(params, cluster, package, recurring=True)
        return recur(kubeflow, str(package), name=name, experiment=experiment, cron=cron, enabled=enabled)
