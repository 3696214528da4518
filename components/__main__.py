"""`python -m components STEP …`: runs one step and imports nothing that it does not use."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from segmodels.tasks import task_info

if TYPE_CHECKING:
    from components.params import Params

DATA = Path("data")
VALIDATION = Path("outputs/validation")
MODELS = Path("outputs/models")
EVALUATION = Path("outputs/evaluation")
REGISTERED = Path("outputs/register.json")
REPORTS = Path("reports")


def download(params: Params, args: argparse.Namespace) -> None:
    from components.download import step

    print(step.run(params, out=args.out or args.data))


def validate(params: Params, args: argparse.Namespace) -> None:
    from components.validate import step

    print(step.run(params, data=args.data, out=args.out or args.validation))


def train(params: Params, args: argparse.Namespace) -> None:
    params.entry(args.model)
    from components.train import step

    result = step.run_tracked(
        params,
        args.model,
        data=args.data,
        out=args.out or args.models / args.model,
        validation=args.validation,
        live=not args.no_tracking,
    )
    told = task_info(params.task).told(result.figures)
    print(f"{args.model}: best validation {told} in epoch {result.epoch}; {result.folder}")


def evaluate(params: Params, args: argparse.Namespace) -> None:
    params.entry(args.model)
    from components.evaluate import step

    quality = step.run(
        params,
        args.model,
        data=args.data,
        trained=args.models / args.model,
        out=args.out or args.evaluation / args.model,
    )
    figures = [task_info(params.task).figure(key) for key in task_info(params.task).validated]
    told = ", ".join(f"{figure.label} {figure.show(quality.metrics[figure.key])}" for figure in figures)
    print(f"{args.model}: {quality.split} {told}")


def register(params: Params, args: argparse.Namespace) -> None:
    from components.lineage import collect
    from components.register import step

    result = step.run(
        params,
        data=args.data,
        validation=args.validation,
        models={key: args.models / key for key in params.models},
        evaluations={key: args.evaluation / key for key in params.models},
        out=args.out or args.registered,
        lineage=collect(params, args.data),
    )
    print(result)


def report(params: Params, args: argparse.Namespace) -> None:
    from components.report import step

    result = step.run(
        params,
        data=args.data,
        validation=args.validation,
        models={key: args.models / key for key in params.models},
        evaluations={key: args.evaluation / key for key in params.models},
        registered=args.registered if args.registered.is_file() else None,
        out=args.out or args.reports,
    )
    print(result)


STEPS = {
    "download": (download, "fetch or generate the dataset folder"),
    "validate": (validate, "check the dataset and describe it"),
    "train": (train, "train one architecture"),
    "evaluate": (evaluate, "evaluate one trained architecture"),
    "register": (register, "record all models in MLflow and register those that pass the gate"),
    "report": (report, "write the report and the leader board"),
}


def main(argv: list[str] | None = None) -> int:
    """Run a step; return the exit status."""
    args = _parser().parse_args(argv)
    from components.errors import complain
    from components.params import Params
    from segmodels.errors import printable_output
    from segmodels.runtime import set_up_process

    set_up_process()
    printable_output()
    try:
        STEPS[args.step][0](Params.read(args.params), args)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 130
    except Exception as error:
        return complain(error)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m components", description="The steps from a dataset to a registered model."
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="STEP")
    for name, (_, text) in STEPS.items():
        step = steps.add_parser(name, help=text, description=text.capitalize() + ".")
        step.add_argument("--params", type=Path, default=Path("params.yaml"), help="settings (params.yaml)")
        step.add_argument("--data", type=Path, default=DATA, help="dataset folder (data)")
        step.add_argument("--out", type=Path, help="where the step writes (its place below outputs/ or reports/)")
        step.add_argument("--validation", type=Path, default=VALIDATION, help="what validate wrote")
        step.add_argument("--models", type=Path, default=MODELS, help="folder of the model folders")
        step.add_argument("--evaluation", type=Path, default=EVALUATION, help="folder of the evaluations")
        step.add_argument("--registered", type=Path, default=REGISTERED, help="what register wrote")
        step.add_argument("--reports", type=Path, default=REPORTS, help="folder of the report")
        if name in ("train", "evaluate"):
            step.add_argument("--model", required=True, help="a key under `models` in the settings")
        if name == "train":
            step.add_argument("--no-tracking", action="store_true", help="no live curves; register completes them")
    return parser


if __name__ == "__main__":
    sys.exit(main())
