"""What made a registered model: version, run, settings, code, data."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.tracking import Store, TrackingError, public_uri, tracking_uri

INDENT, WIDTH = 10, 100
SECTIONS = ("model", "train", "evaluate", "data")


def describe(address: str) -> str:
    """The lineage of a registered version, on one screen.

    Args:
        address: `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises:
        StepError: There is no such version, or MLflow does not answer.
    """
    uri = tracking_uri()
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and not path.is_file():
        raise StepError(f"{path}: no such store; `register` writes it, or set MLFLOW_TRACKING_URI")
    try:
        store = Store(None)
        version = store.find(address)
        with store.calling():
            run = store.client.get_run(version.run_id)
            experiment = store.client.get_experiment(run.info.experiment_id)
    except TrackingError as error:
        raise StepError(str(error)) from None
    tags, metrics = run.data.tags, run.data.metrics
    aliases = "".join(f", {alias}" for alias in version.aliases)
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    rows = {
        "version": [f"{version.name} {version.version}{aliases}; registered {made:%Y-%m-%d %H:%M} UTC"],
        "run": [
            f"{run.info.run_name}, {run.info.run_id}, {run.info.status.lower()}",
            f"experiment {experiment.name} at {public_uri(uri)}; {_made_by(tags)}",
            f"mIoU {_percent(metrics, 'miou')}, pixel accuracy {_percent(metrics, 'pixel_accuracy')}",
        ],
        "params": [f"hash {tags.get('params.hash', '-')}", *_settings(run.data.params)],
        "code": [f"git commit {tags.get('git.commit', '-')}{_dirty(tags)}", f"image {tags.get('image.digest', '-')}"],
        "data": [f"dvc {tags.get('dvc.data.md5', '-')}", *_sources(run.inputs)],
        "weights": [f"sha256 {tags.get('model.sha256', '-')}"],
    }
    lines = [address]
    for name, texts in rows.items():
        lines += [f"  {name if i == 0 else '':{INDENT}}{text}" for i, text in enumerate(texts)]
    return "\n".join(lines)


def _made_by(tags: Mapping[str, str]) -> str:
    ran = [f"{name} {tags[name]}" for name in ("dvc.stage", "kfp.run_id") if tags.get(name, "none") != "none"]
    return ", ".join(ran) or "made by hand"


def _dirty(tags: Mapping[str, str]) -> str:
    return ", and files differed from it" if tags.get("git.dirty") == "true" else ""


def _settings(params: Mapping[str, str]) -> list[str]:
    """The settings by section; what is not set is left out."""
    lines = []
    for section in SECTIONS:
        values = [
            f"{name.removeprefix(f'{section}.')}={value}"
            for name, value in sorted(params.items())
            if name.startswith(f"{section}.") and value not in ("None", "{}", "[]", "")
        ]
        lines += _wrapped(f"{section}: {' '.join(values)}")
    return [f"seed: {params.get('seed', '-')}", *lines]


def _sources(inputs: Any) -> list[str]:
    lines = []
    for used in inputs.dataset_inputs:
        source = json.loads(used.dataset.source)
        told = " ".join(f"{key}={value}" for key, value in source.items() if value is not None)
        lines += _wrapped(f"{used.dataset.name}: {told}")
    return lines


def _percent(metrics: Mapping[str, float], name: str) -> str:
    return f"{100 * metrics[name]:.1f} %" if name in metrics else "-"


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
