"""What `train` and `evaluate` wrote for a model, read from its folders."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.metric_names import finite
from components.params import Params
from components.register.gate import Measured
from components.results import read_json
from segmodels.files import file_sha256
from segmodels.tasks import task_info
from segmodels.tasks.per_image import PER_IMAGE_FILE, PerImage


@dataclass(frozen=True)
class Trained:
    """One model with its results, read from its folders."""

    key: str
    model: Path
    evaluation: Path
    config: dict[str, Any]
    history: dict[int, dict[str, float]]
    metrics: dict[str, Any]
    speed: dict[str, Any]
    train_speed: dict[str, Any]
    sha256: str
    each: PerImage

    @property
    def task(self) -> str:
        """What it predicts."""
        return self.each.task

    @property
    def measured(self) -> Measured:
        """What the gate looks at."""
        return Measured(self.each, self.speed)


def read_model(key: str, model: Path, evaluation: Path) -> Trained:
    """Read what `train` and `evaluate` wrote for a model.

    Raises:
        StepError: A file is missing or unreadable.
    """
    weights = model / "model.safetensors"
    if not weights.is_file():
        raise StepError(f"{weights}: no such file; `python -m components train --model {key}` writes it")
    return Trained(
        key=key,
        model=model,
        evaluation=evaluation,
        config=read_json(model / "model.json", "train"),
        history=read_history(model / "history.csv"),
        metrics=read_json(evaluation / "metrics.json", "evaluate"),
        speed=read_json(evaluation / "speed.json", "evaluate"),
        train_speed=read_json(model / "speed.json", "train"),
        sha256=file_sha256(weights),
        each=_read_counts(evaluation / PER_IMAGE_FILE),
    )


def check_task(params: Params, trained: Sequence[Trained]) -> None:
    """Refuse evaluations of another task, and rules of parts (classes) that no model has.

    Raises:
        StepError: There is such a one.
    """
    each = task_info(params.task).each.key
    for model in trained:
        if model.task != params.task:
            raise StepError(
                f"{model.evaluation}: evaluated as {model.task}, but task is {params.task}; train and evaluate "
                f"{model.key} again"
            )
        parts = {f"{each}/{name}" for name in model.metrics["per_class"]}
        for key in params.register_.rules:
            if key.startswith(f"{each}/") and not key.endswith("/*") and key not in parts:
                known = ", ".join(sorted(parts))
                raise StepError(f"register.rules.{key}: {model.key} has no such figure; known are {known}")


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """`history.csv`: epoch -> metrics; what was not measured in an epoch is left out.

    Raises:
        StepError: The file is missing or not a history.
    """
    try:
        with path.open(newline="") as file:
            return {
                int(row["epoch"]): finite({k: v for k, v in row.items() if k not in ("epoch", "step") and v})
                for row in csv.DictReader(file)
            }
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; run `train` again") from None
    except (KeyError, ValueError, TypeError) as error:
        raise StepError(f"{path}: not a training history ({error!r}); run `train` again") from None


def _read_counts(path: Path) -> PerImage:
    try:
        return PerImage.read(path)
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; `python -m components evaluate` writes it") from None
    except ValueError as error:
        raise StepError(f"{error}; run `evaluate` again") from None
