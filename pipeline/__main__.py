"""`python -m pipeline compile|run|submit|trace`: the pipeline on Kubeflow, or on this machine without a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.params import Params
    from pipeline.dag import Cluster


def compile_(args: argparse.Namespace) -> None:
    from pipeline import package

    params, cluster = _params(args), _cluster(args)
    package.write(params, cluster, args.out, native=args.kubernetes_native, namespace=args.namespace)
    print(f"{args.out}: {', '.join(params.models)} on {cluster.image}")
    _say_whether_cached(cluster)


def run(args: argparse.Namespace) -> None:
    from pipeline import local

    done = local.run(_params(args), args.out)
    reports = done.latest / "reports"
    print(
        f"\n{reports / 'report.html'} and {reports / 'leaderboard.md'}; everything is in {done.latest}, log: {done.log}"
    )


def submit(args: argparse.Namespace) -> None:
    from pipeline import package

    params, cluster = _params(args), _cluster(args)
    token = args.token_file.read_text().strip() if args.token_file else os.environ.get("KF_PIPELINES_TOKEN")
    run = package.submit(
        params,
        cluster,
        host=args.host or os.environ.get("KF_PIPELINES_ENDPOINT", ""),
        namespace=args.namespace,
        experiment=args.experiment or params.register_.experiment,
        run_name=args.run_name,
        token=token,
    )
    print(run)
    _say_whether_cached(cluster)


def trace(args: argparse.Namespace) -> None:
    from pipeline import trace

    print(trace.describe(args.model))


def main(argv: list[str] | None = None) -> int:
    """Runs a command; returns the exit status."""
    args = _parser().parse_args(argv)
    from components.errors import complain

    try:
        args.command(args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return complain(error)
    return 0


def _params(args: argparse.Namespace) -> Params:
    from components.params import Params
    from segmodels.registry import model_info

    params = Params.read(args.params)
    for key in params.models:
        model_info(params.architecture(key))  # a wrong name is found here, not by a task an hour later
    return params


def _cluster(args: argparse.Namespace) -> Cluster:
    from pipeline.dag import Cluster

    named = {
        "image": args.image or os.environ.get("SEGMODELS_IMAGE"),
        "tracking_uri": args.tracking_uri,
        "secret": args.secret,
        "cache_claim": args.cache_claim,
    }
    return Cluster(**{name: value for name, value in named.items() if value})


def _say_whether_cached(cluster: Cluster) -> None:
    if cluster.digest is None:
        print(
            f"note: {cluster.image} names no digest, so nothing is cached: another image may stand behind that name "
            "tomorrow; --image NAME@sha256:… turns caching on",
            file=sys.stderr,
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline", description=__doc__.partition(": ")[2])
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    settings = argparse.ArgumentParser(add_help=False)
    settings.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (params.yaml)")
    pods = argparse.ArgumentParser(add_help=False)
    pods.add_argument(
        "--image", help="image of the tasks, best with its digest (SEGMODELS_IMAGE, or segmodels:VERSION)"
    )
    pods.add_argument("--tracking-uri", help="MLflow's address as the pods see it (http://mlflow:5000)")
    pods.add_argument("--secret", help="Kubernetes secret with AWS_… and MLFLOW_… keys, which become environment")
    pods.add_argument("--cache-claim", help="volume claim that keeps downloads and trainings between attempts")
    pods.add_argument("--namespace", help="Kubernetes namespace")

    command = commands.add_parser("compile", parents=[settings, pods], help="write the pipeline's IR YAML")
    command.set_defaults(command=compile_)
    command.add_argument("-o", "--out", type=Path, required=True, help="the file to write, .yaml")
    command.add_argument(
        "--kubernetes-native", action="store_true", help="write Pipeline and PipelineVersion resources"
    )

    command = commands.add_parser("run", parents=[settings], help="run it on this machine, without a cluster")
    command.set_defaults(command=run)
    command.add_argument("--out", type=Path, default=Path("outputs-local"), help="where runs are kept (outputs-local)")

    command = commands.add_parser("submit", parents=[settings, pods], help="submit it to a Kubeflow cluster")
    command.set_defaults(command=submit)
    command.add_argument("--host", help="address of Kubeflow Pipelines (KF_PIPELINES_ENDPOINT)")
    command.add_argument("--experiment", help="experiment of the run (register.experiment)")
    command.add_argument("--run-name", help="name of the run")
    command.add_argument("--token-file", type=Path, help="file with a bearer token (KF_PIPELINES_TOKEN holds one)")

    command = commands.add_parser("trace", help="say what made a registered model: run, params, code, data")
    command.set_defaults(command=trace)
    command.add_argument("model", metavar="models:/NAME@ALIAS", help="or models:/NAME/VERSION")
    return parser


if __name__ == "__main__":
    sys.exit(main())
