"""How the models were trained, as the page tells it."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from components.params import Params, train_settings
from components.report.rows import Row
from components.results import read_json


def training_settings(params: Params, rows: list[Row], models: Mapping[str, Path]) -> dict[str, Any]:
    """Return how the models were trained: settings that all share, and a table of those that differ, as text.

    Args:
        params: The settings, for model folders of an earlier release, which do not say theirs.
        rows: The models, the best first.
        models: Key -> model folder.

    Raises:
        StepError: A `model.json` is missing or unreadable.
    """
    settings_of: dict[str, dict[str, str]] = {}
    for row in rows:
        described = read_json(models[row.key] / "model.json", "train")
        made = described.get("training") or {}
        settings = dict(made.get("settings") or {})
        if not settings and row.key in params.models:  # a folder of an earlier release
            settings = dataclasses.asdict(train_settings(params, row.key))
        augment = {f"augment.{name}": value for name, value in settings.pop("augment", {}).items()}
        options = {f"option {name}": value for name, value in (described.get("options") or {}).items()}
        own = {"architecture": row.architecture, "backbone": described.get("backbone"), **options}
        own |= {"seed": made.get("seed", params.seed), "best epoch": described.get("metrics", {}).get("epoch")}
        settings_of[row.key] = {name: _plain(value) for name, value in {**own, **settings, **augment}.items()}
    names = list(dict.fromkeys(name for values in settings_of.values() for name in values))
    shared = [n for n in names if len({values.get(n, "") for values in settings_of.values()}) == 1]
    differing = [n for n in names if n not in shared]
    return {
        "shared": {n: value for n in shared if (value := settings_of[rows[0].key].get(n))},
        "names": differing,
        "rows": [(row.key, [settings_of[row.key].get(n, "") for n in differing]) for row in rows],
    }


def _plain(value: Any) -> str:
    """Return a setting as one writes it on the command line; nothing for what is not set."""
    if value is None or value in ({}, [], ""):
        return ""
    if isinstance(value, str):
        return value
    return f"{value:g}" if isinstance(value, float) else json.dumps(value)
