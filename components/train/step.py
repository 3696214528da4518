"""Train: one architecture, to a model folder."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from components.errors import StepError
from components.lineage import Lineage, collect, params_hash
from components.lock import cache_folder, project_folder
from components.params import Params, train_settings
from components.train.run_logger import RunLogger
from segmodels.data.frequencies import ClassCounts
from segmodels.training.fit import fit
from segmodels.training.launch import Launcher
from segmodels.training.result import Trained
from segmodels.training.state import TrainingError, TrainingInterrupted

# What a shell reports of a process that SIGTERM ended.
EXIT_INTERRUPTED = 143
# An address in the object store, below which trainings keep their state.
STATE_URL = "SEGMODELS_STATE"
# The nodes of a training on several, as JSON.
NODES = "SEGMODELS_TRAINJOB"


def run(
    params: Params,
    key: str,
    *,
    data: Path,
    out: Path,
    lineage: Lineage,
    state: Path | None = None,
    counts: ClassCounts | None = None,
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None,
) -> Trained:
    """Train `models.<key>` on the dataset folder.

    Args:
        params: All settings.
        key: An entry of `models`.
        data: Dataset folder.
        out: Model folder.
        lineage: What the resume state belongs to.
        state: Folder of the resume state; one per key and settings in the cache folder by default.
        counts: How often each class occurs in the training split; counted anew by default.
        on_epoch: Called with each row of the history.

    Raises:
        StepError: Training cannot go on, or has been told to stop.
    """
    entry = params.entry(key)
    settings = train_settings(params, key)
    if settings.weights and not Path(settings.weights).exists() and (project_folder() / settings.weights).exists():
        settings = dataclasses.replace(settings, weights=str(project_folder() / settings.weights))
    signature = _signature(params, key, settings.weights, lineage)
    name = f"{key}-{signature[:12]}"
    state = state or cache_folder() / "train" / name
    try:
        with _stored(state, name) as notify:

            def after_epoch(row: Mapping[str, Any]) -> None:
                notify()
                if on_epoch is not None:
                    on_epoch(row)

            return fit(
                data,
                out,
                architecture=params.architecture(key),
                task=params.task,
                settings=settings,
                options=entry.options,
                backbone=entry.backbone,
                name=key,
                seed=params.seed,
                state=state,
                signature=signature,
                counts=counts,
                trials=cache_folder() / "trials.json",
                data_md5=lineage.data_md5,
                checked=True,  # `validate` has done it
                on_epoch=after_epoch,
                launcher=_launcher(lineage),
            )
    except TrainingInterrupted as error:
        raise StepError(str(error), EXIT_INTERRUPTED) from None
    except (TrainingError, ValueError) as error:
        raise StepError(str(error)) from None


def run_tracked(
    params: Params, key: str, *, data: Path, out: Path, validation: Path | None = None, live: bool = True
) -> Trained:
    """Train `models.<key>` with its lineage collected here and, where `live`, its curves live in MLflow.

    Raises:
        StepError: Training cannot go on, or has been told to stop.
    """
    lineage = collect(params, data)
    counts = counted(validation, lineage.data_md5) if validation is not None else None
    with RunLogger(params, key, lineage) as logger:

        def on_epoch(row: Mapping[str, Any]) -> None:
            logger.log({k: v for k, v in row.items() if k not in ("epoch", "step") and v != ""}, step=row["epoch"])

        return run(params, key, data=data, out=out, lineage=lineage, counts=counts, on_epoch=on_epoch if live else None)


def counted(validation: Path, data_md5: str) -> ClassCounts | None:
    """Return what `validate` counted in the training split of this data; None where it saw another version."""
    try:
        report = json.loads((validation / "validation.json").read_text())
        if report["data_md5"] != data_md5:
            return None
        counts = report["class_counts"]["train"]
        return ClassCounts(tuple(counts["pixels"]), tuple(counts["in_images"]))
    except (OSError, ValueError, KeyError):
        return None


def _launcher(lineage: Lineage) -> Launcher | None:
    """Start the processes on several nodes, where the pipeline wants that; None where this one trains."""
    wanted = os.environ.get(NODES)
    if not wanted:
        return None
    from components.train.trainjob import Nodes, TrainJobLauncher

    return TrainJobLauncher(Nodes(**json.loads(wanted)), lineage.data_md5)


@contextlib.contextmanager
def _stored(state: Path, name: str) -> Iterator[Callable[[], None]]:
    """Keep the resume state in the object store, too, where the environment names a place (`SEGMODELS_STATE`)."""
    url = os.environ.get(STATE_URL)
    if not url or NODES in os.environ:  # several nodes have theirs on a volume
        yield lambda: None
        return
    from components.train.remote_state import RemoteState

    remote = RemoteState(state, f"{url.rstrip('/')}/{name}")
    remote.fetch()
    with remote.mirrored():
        yield remote.notify


def _signature(params: Params, key: str, weights: str | None, lineage: Lineage) -> str:
    """Change with the settings, the data and the weights that training begins with."""
    parts = {"params": params_hash(params, key), "data": lineage.data_md5, "weights": None}
    if weights:
        path = Path(weights)
        file = path / "model.safetensors" if path.is_dir() else path
        parts["weights"] = hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else None
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
