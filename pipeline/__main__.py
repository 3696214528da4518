"""`python -m pipeline COMMAND`: the pipeline on Kubeflow, or on this machine without a cluster."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from components.params import Params
    from pipeline.cluster import Kubeflow
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
    from pipeline import package, pinning
    from pipeline import status as following

    params, kubeflow = _params(args), _kubeflow(args)
    cluster = pinning.pinned(
        _cluster(args), allow_dirty=args.allow_dirty, allow_tag=args.allow_tag, from_source=args.data_from_source
    )
    experiment = args.experiment or params.register_.experiment
    run_id = package.submit(params, cluster, kubeflow, experiment=experiment, run_name=args.run_name)
    print(kubeflow.page(run_id))
    _say_whether_cached(cluster)
    if args.watch:
        following.watch(kubeflow, run_id)
    else:
        print(f"follow it: python -m pipeline status {run_id}")


def status(args: argparse.Namespace) -> None:
    from components.errors import StepError
    from pipeline import status

    if args.watch and args.json:
        raise StepError("--watch --json: a run is either followed or printed as JSON")
    if args.watch:
        if not args.run:
            raise StepError("--watch: name the run; `python -m pipeline status` lists the latest")
        status.watch(_kubeflow(args), args.run)
    else:
        status.show(_kubeflow(args), args.run, as_json=args.json)


def logs(args: argparse.Namespace) -> None:
    from components.errors import StepError
    from pipeline import logs

    if args.attempt is not None and not args.task:
        raise StepError(f"--attempt {args.attempt}: name its task, too")
    logs.show(
        _kubeflow(args), args.run, args.task, attempt=args.attempt, follow=args.follow, everything=args.everything
    )


def doctor(args: argparse.Namespace) -> None:
    from pipeline import doctor

    doctor.examine(_kubeflow(args), _cluster(args), _params(args))


def cancel(args: argparse.Namespace) -> None:
    from pipeline import cluster

    cluster.cancel(_kubeflow(args), args.run)


def schedule(args: argparse.Namespace) -> None:
    from pipeline import package

    params, cluster = _params(args), _cluster(args)
    experiment = args.experiment or params.register_.experiment
    made = package.schedule(
        params,
        cluster,
        _kubeflow(args),
        experiment=experiment,
        name=args.name,
        cron=args.cron,
        enabled=not args.paused,
    )
    print(f"recurring run {made} ({args.name}): {args.cron}{', paused' if args.paused else ''}")


def trace(args: argparse.Namespace) -> None:
    from pipeline import trace

    print(trace.describe(args.model))
    if args.params_out:
        trace.write_params(args.model, args.params_out)
        print(f"{args.params_out} has the settings of this version")


def promote(args: argparse.Namespace) -> None:
    from pipeline import promotion

    _print(promotion.promote(args.name, args.version, why=args.why, force=args.force))


def rollback(args: argparse.Namespace) -> None:
    from pipeline import promotion

    _print(promotion.rollback(args.name, why=args.why))


def history(args: argparse.Namespace) -> None:
    from pipeline import promotion

    _print(promotion.history(args.name))


def audit(args: argparse.Namespace) -> None:
    from components.errors import StepError
    from pipeline import promotion

    lines, good = promotion.audit(args.name)
    _print(lines)
    if not good:
        raise StepError("a champion has not passed the gate; roll it back, or promote one that has")


def main(argv: list[str] | None = None) -> int:
    """Run a command; return the exit status."""
    args = _parser().parse_args(argv)
    from components.errors import complain
    from segmodels.runtime import set_up_process

    set_up_process()
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
    from segmodels.catalog.registry import model_info

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
        "state": args.state,
    }
    return Cluster(**{name: value for name, value in named.items() if value})


def _kubeflow(args: argparse.Namespace) -> Kubeflow:
    from pipeline.cluster import Kubeflow

    token = args.token_file.read_text().strip() if args.token_file else os.environ.get("KF_PIPELINES_TOKEN")
    return Kubeflow.at(args.host or os.environ.get("KF_PIPELINES_ENDPOINT", ""), args.namespace, token)


def _print(lines: Iterable[str]) -> None:
    for line in lines:
        print(line)


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
    pods.add_argument("--state", metavar="s3://BUCKET/PREFIX", help="where trainings keep their state for the next pod")
    place = argparse.ArgumentParser(add_help=False)
    place.add_argument("--namespace", help="Kubernetes namespace")
    server = argparse.ArgumentParser(add_help=False)
    server.add_argument("--host", help="address of Kubeflow Pipelines (KF_PIPELINES_ENDPOINT)")
    server.add_argument("--token-file", type=Path, help="file with a bearer token (KF_PIPELINES_TOKEN holds one)")

    command = commands.add_parser("compile", parents=[settings, pods, place], help="write the pipeline's IR YAML")
    command.set_defaults(command=compile_)
    command.add_argument("-o", "--out", type=Path, required=True, help="the file to write, .yaml")
    command.add_argument(
        "--kubernetes-native", action="store_true", help="write Pipeline and PipelineVersion resources"
    )

    command = commands.add_parser("run", parents=[settings], help="run it on this machine, without a cluster")
    command.set_defaults(command=run)
    command.add_argument("--out", type=Path, default=Path("outputs-local"), help="where runs are kept (outputs-local)")

    cluster = [place, server]
    command = commands.add_parser("submit", parents=[settings, pods, *cluster], help="start it on a Kubeflow cluster")
    command.set_defaults(command=submit)
    command.add_argument("--experiment", help="experiment of the run (register.experiment)")
    command.add_argument("--run-name", help="name of the run")
    command.add_argument("--allow-dirty", action="store_true", help="submit though files differ from the commit")
    command.add_argument("--allow-tag", action="store_true", help="submit though the image's tag may move")
    command.add_argument(
        "--data-from-source", action="store_true", help="download data.source, not the version that git pins"
    )
    command.add_argument("--watch", action="store_true", help="follow the run to its end")

    command = commands.add_parser(
        "doctor", parents=[settings, pods, *cluster], help="look whether a cluster has what a run needs"
    )
    command.set_defaults(command=doctor)

    command = commands.add_parser("status", parents=cluster, help="a run's tasks, or the latest runs")
    command.set_defaults(command=status)
    command.add_argument("run", nargs="?", help="id of a run")
    command.add_argument("--watch", action="store_true", help="follow the run to its end")
    command.add_argument("--json", action="store_true", help="for programs: also every attempt with its pod")

    command = commands.add_parser("logs", parents=cluster, help="what the tasks of a run said")
    command.set_defaults(command=logs)
    command.add_argument("run", help="id of the run")
    command.add_argument("task", nargs="?", help="one task, e.g. train-enet")
    command.add_argument("--attempt", type=int, metavar="N", help="one of its attempts, from 1 (all)")
    command.add_argument("--follow", action="store_true", help="go on until the task, or the run, has ended")
    command.add_argument(
        "--all", dest="everything", action="store_true", help="also what Kubeflow's programs say in the same pods"
    )

    command = commands.add_parser("cancel", parents=cluster, help="stop a run")
    command.set_defaults(command=cancel)
    command.add_argument("run", help="id of the run")

    command = commands.add_parser(
        "schedule", parents=[settings, pods, *cluster], help="run it again and again; trains when the data has changed"
    )
    command.set_defaults(command=schedule)
    command.add_argument("--cron", required=True, help="when, e.g. '0 3 * * *' for every night at three")
    command.add_argument("--name", default="nightly", help="of the recurring run; replaces one of this name (nightly)")
    command.add_argument("--experiment", help="experiment of its runs (register.experiment)")
    command.add_argument("--paused", action="store_true", help="do not begin yet")

    command = commands.add_parser("trace", help="say what made a registered model: run, params, code, data, gate")
    command.set_defaults(command=trace)
    command.add_argument("model", metavar="models:/NAME@ALIAS", help="or models:/NAME/VERSION")
    command.add_argument(
        "--params-out", type=Path, metavar="FILE", help="write its settings as a params.yaml that trains it again"
    )

    command = commands.add_parser("promote", help="make a version the champion")
    command.set_defaults(command=promote)
    command.add_argument("name", metavar="NAME", help="the registered model")
    command.add_argument("--version", metavar="N", help="its version (the challenger)")
    command.add_argument("--why", required=True, help="the reason, for the trail")
    command.add_argument("--force", action="store_true", help="promote though the gate did not pass; the trail says so")

    command = commands.add_parser("rollback", help="make the previous champion the champion again")
    command.set_defaults(command=rollback)
    command.add_argument("name", metavar="NAME", help="the registered model")
    command.add_argument("--why", required=True, help="the reason, for the trail")

    command = commands.add_parser("history", help="who promoted what, when and why")
    command.set_defaults(command=history)
    command.add_argument("name", metavar="NAME", help="the registered model")

    command = commands.add_parser(
        "audit", help="list promotions that skipped the gate or were made elsewhere; fails where such one is champion"
    )
    command.set_defaults(command=audit)
    command.add_argument("name", metavar="NAME", nargs="*", help="registered models (all)")
    return parser


if __name__ == "__main__":
    sys.exit(main())
