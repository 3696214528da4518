"""`python -m components.summary`: the few figures of all models that `dvc exp show` and `dvc metrics diff` compare.

Every figure of a model stands in its own `metrics.json`; a table of experiments with all of them has a column for each
class of each model. Here are the best model, and the main figure of each.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path

from components.errors import complain
from components.params import Params
from components.results import read_json
from segmodels.files import write_text
from segmodels.tasks import DEFAULT, task_info

DIGITS = 4


def write(evaluations: Mapping[str, Path], out: Path, task: str = DEFAULT) -> None:
    """Write the summary of evaluations.

    Args:
        evaluations: Key under `models` -> folder that `evaluate` wrote.
        out: The JSON file: `best` with the figures of the model that is best by the task's main one, and the main one
            of every model.
        task: The task.

    Raises:
        StepError: An evaluation is missing or unreadable.
    """
    measured = {key: read_json(folder / "metrics.json", "evaluate") for key, folder in evaluations.items()}
    info = task_info(task)
    main = info.main
    best = max(measured, key=lambda key: main.quality(measured[key][main.key]))
    told = [figure.key for figure in info.shown if figure.key not in info.validated or figure is main]
    content = {
        "best": {"model": best, **{name: _rounded(measured[best][name]) for name in told}},
        main.key: {key: _rounded(metrics[main.key]) for key, metrics in measured.items()},
    }
    write_text(out, json.dumps(content, indent=2) + "\n")


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, DIGITS)


def main() -> int:
    """Write the summary of the evaluations of the models in `params.yaml`; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m components.summary", description=__doc__)
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument("--evaluation", type=Path, default=Path("outputs/evaluation"))
    parser.add_argument("--out", type=Path, default=Path("outputs/summary.json"))
    args = parser.parse_args()
    try:
        params = Params.read(args.params)
        write({key: args.evaluation / key for key in params.models}, args.out, params.task)
    except Exception as error:
        return complain(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
