"""Evaluate: a model folder on the test split, to metrics, tables and pictures."""

from __future__ import annotations

from pathlib import Path

from components.errors import StepError
from components.params import Params, evaluate_settings
from segmodels.catalog.weights import CheckpointError
from segmodels.evaluation.evaluate import Quality, evaluate


def run(params: Params, key: str, *, data: Path, trained: Path, out: Path) -> Quality:
    """Evaluate the model folder of `models.<key>`.

    Args:
        params: All settings.
        key: An entry of `models`.
        data: Dataset folder.
        trained: Model folder.
        out: Folder of the results.

    Raises:
        StepError: The model folder is missing or damaged.
        DatasetError: The dataset does not fit the model.
    """
    try:
        return evaluate(trained, data, out, evaluate_settings(params, key))
    except CheckpointError as error:
        raise StepError(f"{error}; train {key} again") from None
