"""What made a registered model, and what became of it: version, run, settings, code, data, gate, promotions."""

from __future__ import annotations

import json
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from components import promotion
from components.errors import StepError
from components.lineage import SETTINGS_FILE
from components.params import Params
from components.tracking import Store, TrackingError, existing_store, public_uri
from segmodels.files import write_text
from segmodels.tasks import DEFAULT, named, task_info

INDENT, WIDTH = 10, 100
SECTIONS = ("model", "train", "evaluate", "data")


def describe(address: str) -> str:
    """Return the lineage of a registered version, on one screen.

    Args:
        address: `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.

    Raises:
        StepError: There is no such version, or MLflow does not answer.
    """
    try:
        store = existing_store()
        version = store.find(address)
        with store.calling():
            run = store.client.get_run(version.run_id)
            experiment = store.client.get_experiment(run.info.experiment_id)
        validation = _validation(store, version.run_id)
        moves = promotion.trail(store, version.name)
    except TrackingError as error:
        raise StepError(str(error)) from None
    tags, metrics = run.data.tags, run.data.metrics
    info = task_info(tags.get("task", DEFAULT))
    aliases = "".join(f", {alias}" for alias in version.aliases)
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    rows = {
        "version": [f"{version.name} {version.version}{aliases}; registered {made:%Y-%m-%d %H:%M} UTC"],
        "run": [
            f"{run.info.run_name}, {run.info.run_id}, {run.info.status.lower()}",
            f"experiment {experiment.name} at {public_uri(store.uri)}; {_made_by(tags)}",
            ", ".join(f"{figure.label} {figure.show(metrics.get(figure.key))}" for figure in info.shown),
        ],
        "params": [f"hash {tags.get('params.hash', '-')}", *_settings(run.data.params)],
        "code": [f"git commit {tags.get('git.commit', '-')}{_dirty(tags)}", f"image {tags.get('image.digest', '-')}"],
        "data": [f"dvc {tags.get('dvc.data.md5', '-')}", *_sources(run.inputs)],
        "checked": _wrapped(validation),
        "weights": [f"sha256 {tags.get('model.sha256', '-')}"],
        "gate": [line for text in _gate(version.tags) for line in _wrapped(text)],
        "promoted": [line for text in _moves(moves, str(version.version)) for line in _wrapped(text)],
    }
    lines = [address]
    for name, texts in rows.items():
        lines += [f"  {name if i == 0 else '':{INDENT}}{text}" for i, text in enumerate(texts)]
    return "\n".join(lines)


def write_params(address: str, out: Path) -> None:
    """Write settings with which the steps make the version's model again.

    Args:
        address: `models:/NAME@ALIAS` or `models:/NAME/NUMBER`.
        out: The file to write, a `params.yaml` with this model alone.

    Raises:
        StepError: There is no such version, or its run does not hold its settings.
    """
    try:
        store = existing_store()
        version = store.find(address)
        if not store.has_files(version.run_id, "", [SETTINGS_FILE]):
            raise StepError(f"{address}: its run has no {SETTINGS_FILE}; register that model again")
        settings = json.loads(_text(store, version.run_id, SETTINGS_FILE))
    except TrackingError as error:
        raise StepError(str(error)) from None
    key, model = settings["key"], settings["model"]
    # The settings are resolved: under the entry itself no recipe of a paper changes them again.
    content = {
        **named(settings.get("task", DEFAULT)),
        "seed": settings["seed"],
        "data": settings["data"],
        "evaluate": {"models": {key: settings["evaluate"]}},
        "register": {"model_name": version.name},
        "models": {key: {**model, "train": settings["train"]}},
    }
    Params.parse(content, str(out))
    write_text(out, yaml.safe_dump(content, sort_keys=False))


def _validation(store: Store, run_id: str) -> str:
    """Return what the validation of its data said."""
    if not store.has_files(run_id, "validation", ["validation.json"]):
        return "the run has no validation"
    report = json.loads(_text(store, run_id, "validation/validation.json"))
    warnings = [str(warning["message"]) for warning in report["warnings"]]
    counts = ", ".join(f"{count} {split}" for split, count in report["splits"].items())
    said = f"with {len(warnings)} warnings: {'; '.join(warnings)}" if warnings else "without warnings"
    return f"validation {'passed' if report['passed'] else 'failed'} {said}; {counts} images"


def _gate(tags: Mapping[str, str]) -> list[str]:
    against = tags.get(promotion.AGAINST_TAG, promotion.NONE)
    compared = "there was no champion" if against == promotion.NONE else f"against version {against}"
    finding = tags.get(promotion.FOUND_TAG)
    return [f"{tags.get(promotion.GATE_TAG, 'never went through it')}; {compared}", *([finding] if finding else [])]


def _moves(moves: Sequence[promotion.Move], version: str) -> list[str]:
    """When the version became the champion and when it ceased to be."""
    lines = []
    for move in moves:
        if move.target == version:
            lines.append(f"{move.when} {move.kind} by {move.who}: {move.why}")
        elif move.source == version:
            to = f"version {move.target}" if move.target else "no champion"
            lines.append(f"{move.when} replaced by {to} ({move.kind} by {move.who}): {move.why}")
    return lines or ["never"]


def _text(store: Store, run_id: str, path: str) -> str:
    with tempfile.TemporaryDirectory() as place:
        return store.download_file(run_id, path, Path(place)).read_text()


def _made_by(tags: Mapping[str, str]) -> str:
    ran = [f"{name} {tags[name]}" for name in ("dvc.stage", "kfp.run_id") if tags.get(name, "none") != "none"]
    return ", ".join(ran) or "made by hand"


def _dirty(tags: Mapping[str, str]) -> str:
    return ", and files differed from it" if tags.get("git.dirty") == "true" else ""


def _settings(params: Mapping[str, str]) -> list[str]:
    """Return the settings by section; what is not set is left out."""
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


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
