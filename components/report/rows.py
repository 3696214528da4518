"""A model as the page and the leader board show it."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.results import read_json


@dataclass(frozen=True)
class Row:
    """One model in the leader board."""

    key: str
    architecture: str
    metrics: Mapping[str, Any]
    speed: Mapping[str, Any]
    train_speed: Mapping[str, Any]
    history: tuple[Mapping[str, str], ...]
    version: str | None
    challenger: bool
    champion: bool
    reason: str | None
    card: str | None

    @property
    def aliases(self) -> list[str]:
        """The aliases of its version."""
        return [name for name in ("champion", "challenger") if getattr(self, name)]

    def curve(self, column: str) -> dict[int, float]:
        """Return a column of the history by epoch, without the epochs that have no value."""
        return {int(row["epoch"]): float(row[column]) for row in self.history if row.get(column)}


def read_row(key: str, model: Path, evaluation: Path, register: Mapping[str, Any]) -> Row:
    """Return a model's row.

    Args:
        key: Its name among the models.
        model: The folder that `train` wrote.
        evaluation: The folder that `evaluate` wrote.
        register: What `register.json` says, empty where nothing was registered.

    Raises:
        StepError: A result is missing or unreadable.
    """
    try:
        with (model / "history.csv").open(newline="") as file:
            history = tuple(csv.DictReader(file))
    except FileNotFoundError as error:
        raise StepError(f"{error.filename}: no such file; run `train` again") from None
    version: Mapping[str, Any] = next((v for v in register.get("versions", ()) if v["key"] == key), {})
    return Row(
        key=key,
        architecture=str(read_json(model / "model.json", "train")["architecture"]),
        metrics=read_json(evaluation / "metrics.json", "evaluate"),
        speed=read_json(evaluation / "speed.json", "evaluate"),
        train_speed=read_json(model / "speed.json", "train"),
        history=history,
        version=version.get("version"),
        challenger=register.get("challenger") == key,
        champion=version.get("version") is not None and register.get("champion") == version["version"],
        reason=None if version.get("passed", True) else str(version["reason"]),
        card=version.get("card"),
    )
