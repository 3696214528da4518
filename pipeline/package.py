"""The compiled pipeline: written to a file, or submitted to a cluster."""

from __future__ import annotations

import hashlib
import json
import os
import urllib.error
import urllib.request
import warnings
from pathlib import Path

from components.errors import StepError
from components.params import Params
from pipeline.dag import NAME, Cluster, build

PROBE_SECONDS = 5


def write(params: Params, cluster: Cluster, out: Path, *, native: bool = False, namespace: str | None = None) -> None:
    """Compiles the pipeline to a file.

    Args:
        params: All settings.
        cluster: What its pods need.
        out: The file, `.yaml`; the same settings and code give the same bytes.
        native: Writes resources (`Pipeline`, `PipelineVersion`) for Kubeflow's Kubernetes-native mode, not the IR.
            The version is named by its content, since a cluster does not let it change.
        namespace: Of those resources.

    Raises:
        StepError: The file has another ending.
    """
    from kfp.compiler import Compiler
    from kfp.compiler.compiler_utils import KubernetesManifestOptions

    if out.suffix not in (".yaml", ".yml"):
        raise StepError(f"{out}: Kubeflow reads YAML; let the name end with .yaml")
    if namespace and not native:
        raise StepError("--namespace: the IR names none; use it with --kubernetes-native, or with submit")
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(f".part-{out.name}")
    pipeline = build(params, cluster)
    try:
        Compiler().compile(pipeline, str(part))
        if native:
            version = f"{NAME}-{hashlib.sha256(part.read_bytes()).hexdigest()[:10]}"
            options = KubernetesManifestOptions(
                pipeline_name=NAME,
                pipeline_version_name=version,
                pipeline_version_display_name=version,
                namespace=namespace,
                include_pipeline_manifest=True,
            )
            Compiler().compile(
                pipeline, str(part), kubernetes_manifest_format=True, kubernetes_manifest_options=options
            )
        os.replace(part, out)
    finally:
        part.unlink(missing_ok=True)


def submit(
    params: Params,
    cluster: Cluster,
    *,
    host: str,
    namespace: str | None = None,
    experiment: str,
    run_name: str | None = None,
    token: str | None = None,
) -> str:
    """Starts a run of the pipeline on a cluster; gives its address.

    Args:
        params: All settings.
        cluster: What its pods need.
        host: Address of Kubeflow Pipelines.
        namespace: Where the run belongs in a multi-user installation.
        experiment: Made where it does not exist.
        run_name: Name of the run; its time by default.
        token: Bearer token.

    Raises:
        StepError: There is no cluster, or it refuses.
    """
    if not host:
        raise StepError("no cluster: give --host http://… or set KF_PIPELINES_ENDPOINT; `run` needs none")
    host = (host if "://" in host else f"https://{host}").rstrip("/")
    _probe(host, token)
    pipeline = build(params, cluster)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which versions of a cluster kfp's client works with
        import kfp
        from kfp_server_api.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            client = kfp.Client(host=host, namespace=namespace or "kubeflow", existing_token=token)
            run = client.create_run_from_pipeline_func(
                pipeline, experiment_name=experiment, run_name=run_name, namespace=namespace
            )
        except ApiException as error:
            raise StepError(f"{host}: refuses the run (HTTP {error.status}{_message(error.body)})") from None
        except (HTTPError, OSError, ValueError) as error:
            raise StepError(f"{host}: {' '.join(str(error).split())}") from None
    return f"{host}/#/runs/details/{run.run_id}"


def _probe(host: str, token: str | None) -> None:
    """Finds out within seconds whether Kubeflow answers: its client would try for minutes."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        request = urllib.request.Request(f"{host}/apis/v2beta1/healthz", headers=headers)
        with urllib.request.urlopen(request, timeout=PROBE_SECONDS) as answer:
            json.load(answer)
    except urllib.error.HTTPError as error:
        hint = "; give a token with --token-file" if error.code in (401, 403) else ""
        raise StepError(f"{host}: Kubeflow Pipelines refuses (HTTP {error.code}){hint}") from None
    except (OSError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", error)
        raise StepError(
            f"{host}: no Kubeflow Pipelines answers there ({reason}); check --host, or run it without a cluster: "
            "`python -m pipeline run`"
        ) from None
    except ValueError:
        raise StepError(
            f"{host}: what answers is not Kubeflow Pipelines, perhaps a login page; give a token with --token-file"
        ) from None


def _message(body: object) -> str:
    """The sentence in an answer of Kubeflow, if there is one."""
    try:
        content = json.loads(str(body))
    except ValueError:
        return ""
    text = content.get("message") or content.get("error") if isinstance(content, dict) else None
    return f": {text}" if text else ""
