"""Completes the MLflow run of each model, registers versions with their cards, and lets the gate decide on each."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components import promotion, tracking
from components.errors import StepError
from components.lineage import SETTINGS_FILE, Lineage, model_settings
from components.metric_names import finite
from components.params import Params, Register, evaluate_settings
from components.promotion import PASSED
from components.register.card import Card
from components.register.champion import read_champion
from components.register.gate import Champion, Decision, Gate, against, below_floors, decide, interval
from components.register.trained import Trained, check_task, read_model
from components.results import read_json
from segmodels.evaluation.compare import Comparison
from segmodels.files import write_text
from segmodels.tasks import named, task_info
from segmodels.tasks.base import TaskInfo
from segmodels.tasks.per_image import PER_IMAGE_FILE

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

UNDECIDED = "not decided yet"
CARD_FILE = "card.md"
PYFUNC = Path(__file__).with_name("pyfunc_model.py")
PACKAGE = Path(__file__).parents[2] / "segmodels"
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "timm", "torch", "torchvision")
# A grey PNG of 32 x 32 pixels.
EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAGElEQVR42mNsYMAPmBhGFYwqGFUwQhUAAJe+AMD8WknZAAAAAElFTkSuQmCC"


@dataclass(frozen=True)
class Version:
    """What became of one model.

    Attributes:
        key: Its key under `models`.
        run_id: Its MLflow run.
        version: Number of its registered version; None where it is below the gate's floors.
        passed: Whether it passed the gate.
        reason: Why not, or `passed`.
        card: Its model card, Markdown without pictures.
    """

    key: str
    run_id: str
    version: str | None
    passed: bool
    reason: str
    card: str

    def __str__(self) -> str:
        if self.passed:
            return f"{self.key}: version {self.version}"
        return f"{self.key}: {f'version {self.version}' if self.version else 'no version'}, {self.reason}"


@dataclass(frozen=True)
class RegisterResult:
    """The content of `register.json`.

    Attributes:
        experiment: MLflow's experiment.
        tracking_uri: MLflow's address, without password.
        model_name: The registered model.
        versions: What became of each model.
        challenger: Key of the model that is the challenger; None where none of them is.
        champion: Number of the version in production; None where there is none.
        defended: Why the challenger of an earlier registration stays; empty where none does.
    """

    experiment: str
    tracking_uri: str
    model_name: str
    versions: tuple[Version, ...]
    challenger: str | None
    champion: str | None
    defended: str = ""

    def __str__(self) -> str:
        lines = [str(version) for version in self.versions]
        champion = f"version {self.champion}" if self.champion else "none; promote one"
        return "\n".join(
            [
                *lines,
                f"challenger of {self.model_name}: {self.challenger or self.defended or 'none passed the gate'}",
                f"champion of {self.model_name}: {champion}",
            ]
        )


def run(
    params: Params,
    *,
    data: Path,
    validation: Path,
    models: Mapping[str, Path],
    evaluations: Mapping[str, Path],
    out: Path,
    lineage: Lineage,
) -> RegisterResult:
    """Record every model in MLflow; a second call changes nothing.

    Args:
        params: The settings; `register` holds experiment, model name and gate.
        data: The dataset folder.
        validation: The folder that `validate` wrote.
        models: Key -> model folder.
        evaluations: Key -> folder that `evaluate` wrote.
        out: The file to write, `register.json`.
        lineage: What the models were made from.

    Raises:
        StepError: A result is missing, or MLflow is away; then nothing is lost and the step can be run again.
    """
    trained = [read_model(key, models[key], evaluations[key]) for key in models]
    check_task(params, trained)
    report = read_json(validation / "validation.json", "validate")
    try:
        result = _register(params, trained, data, validation, report, lineage)
    except tracking.TrackingError as error:
        raise StepError(
            f"{error}; nothing is lost: the trained models and their evaluation lie in {_parents(trained)}; when "
            "MLflow is back, run this step again (`dvc repro register`)"
        ) from error
    _write(result, lineage, out)
    return result


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Return nested settings as `a.b.c` -> value; a list stays one value, an address loses its password."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tracking.public_uri(value) if isinstance(value, str) else value}


def _register(
    params: Params, trained: list[Trained], data: Path, validation: Path, report: dict[str, Any], lineage: Lineage
) -> RegisterResult:
    settings, gate = params.register_, Gate.of(params)
    store = tracking.Store(settings.experiment)
    dataset = read_json(data / "dataset.json", "download")
    champion = _champion(store, params, data, lineage)
    # What was in production keeps the decision that put it there.
    decided = {move.target for move in promotion.trail(store, settings.model_name)}
    decided |= {champion.version} if champion else set()
    versions = []
    runs = [store.run_of(model.key, lineage.tags(model.key), model.sha256, model.history) for model in trained]
    registered = [
        store.version(settings.model_name, run, model.sha256) for run, model in zip(runs, trained, strict=True)
    ]
    judged = {
        model.key: model.measured
        for model, model_version in zip(trained, registered, strict=True)
        if not (model_version is not None and str(model_version.version) in decided)
        and not below_floors(gate, model.metrics)
    }
    compared: dict[str, Comparison] = {}
    if champion is not None and champion.measured is not None:
        compared = dict(zip(judged, against(gate, list(judged.values()), champion.measured), strict=True))
    for model, run, model_version in zip(trained, runs, registered, strict=True):
        kept = model_version is not None and str(model_version.version) in decided
        decision = decide(gate, model.metrics, model.measured, None if kept else champion, compared.get(model.key))
        if model_version is not None and kept and promotion.GATE_TAG in model_version.tags:
            _complete(params, run, model, validation, dataset, lineage, model_version.tags[promotion.GATE_TAG])
            versions.append(_kept(store, model, run, model_version))
            continue
        _complete(params, run, model, validation, dataset, lineage, decision.reason)
        if model_version is None and decision.above_floors:
            model_version = _new_version(store, params, run, model)
            # Of two registrations at once the one that was too late has ended its upload as failed.
            run.set_status("FINISHED")
            model_version = store.only_version(settings.model_name, run, model.sha256) or model_version
        card = Card(
            model=model,
            decision=decision,
            dataset=dataset,
            validation=report,
            tags=run.tags,
            name=settings.model_name,
            run_id=run.id,
            version=str(model_version.version) if model_version else None,
            gate=gate,
        )
        run.log_text(card.markdown(), CARD_FILE)
        if model_version is not None:
            store.update_version(model_version, _gate_tags(gate, decision), card.description())
        number = str(model_version.version) if model_version else None
        versions.append(Version(model.key, run.id, number, decision.passed, decision.reason, card.markdown()))
    return _choose(store, settings, gate.info, trained, versions, lineage.data_md5)


def _champion(store: tracking.Store, params: Params, data: Path, lineage: Lineage) -> Champion | None:
    """Return the champion with its figures on this data, if there is one."""
    name = params.register_.model_name
    number = store.alias(name, promotion.CHAMPION)
    if number is None:
        return None
    return read_champion(store, store.find(f"models:/{name}/{number}"), params, data, lineage.data_md5)


def _complete(
    params: Params,
    run: tracking.Run,
    model: Trained,
    validation: Path,
    dataset: Mapping[str, Any],
    lineage: Lineage,
    reason: str,
) -> None:
    """Everything that a run holds but its card."""
    settings = model_settings(params, model.key)
    run.set_status("RUNNING")
    run.log_params(flatten(settings))
    run.log_text(json.dumps(settings, indent=2) + "\n", SETTINGS_FILE)
    run.log_steps(model.history)
    run.log_results(_results(model))
    run.log_files(_files(model, validation))
    source = json.dumps(flatten(dataset.get("source", {})), sort_keys=True)
    run.log_dataset(str(dataset["name"]), lineage.data_md5, source)
    known = {name: value for name, value in lineage.tags(model.key).items() if name not in run.tags}
    run.set_tags({**known, tracking.MODEL_TAG: model.sha256, promotion.GATE_TAG: reason})
    run.set_status("FINISHED")


def _kept(store: tracking.Store, model: Trained, run: tracking.Run, version: ModelVersion) -> Version:
    """Return a version that is or was in production, as it was decided on then."""
    with tempfile.TemporaryDirectory() as place:
        card = store.download_file(run.id, CARD_FILE, Path(place)).read_text()
    reason = version.tags[promotion.GATE_TAG]
    return Version(model.key, run.id, str(version.version), reason == PASSED, reason, card)


def _gate_tags(gate: Gate, decision: Decision) -> dict[str, str]:
    """Return what a version says about the gate."""
    tags = {
        promotion.GATE_TAG: decision.reason,
        promotion.AGAINST_TAG: decision.champion.version if decision.champion else promotion.NONE,
    }
    if decision.comparison is not None:
        main = gate.info.main
        difference = decision.comparison.figures[main.key]
        tags[promotion.FOUND_TAG] = f"{main.label} {interval(main, difference, gate.confidence)}"
    return tags


def _choose(
    store: tracking.Store,
    settings: Register,
    info: TaskInfo,
    trained: list[Trained],
    versions: list[Version],
    data_md5: str,
) -> RegisterResult:
    """Point `challenger` to the best version that passed, and `champion` too where the settings promote by themselves.

    A challenger of an earlier registration keeps the alias where it is as good on the same data; one of these models
    that does not pass any more loses it, and so does one that was promoted.
    """
    name = settings.model_name
    quality = {model.key: _quality(info, model.metrics) for model in trained}
    champion = store.alias(name, promotion.CHAMPION)
    passed = [v for v in versions if v.passed and v.version is not None and v.version != champion]
    best = max(passed, key=lambda v: quality[v.key], default=None)
    holder, why = store.alias(name, promotion.CHALLENGER), ""
    own = {v.version for v in versions if v.version is not None}
    if best is not None and holder is not None and holder not in {*own, champion}:
        why = _defended(store, name, holder, info, quality[best.key], data_md5)
        best = None if why else best
    if best is not None:
        store.set_alias(name, promotion.CHALLENGER, best.version)
        if settings.auto_promote:
            promotion.promote(store, name, str(best.version), why="register.auto_promote", who="register")
            champion = best.version
    elif holder is not None and holder in {*own, champion}:
        store.set_alias(name, promotion.CHALLENGER, None)
    return RegisterResult(
        experiment=settings.experiment,
        tracking_uri=tracking.public_uri(store.uri),
        model_name=name,
        versions=tuple(versions),
        challenger=best.key if best else None,
        champion=champion,
        defended=why,
    )


def _quality(info: TaskInfo, metrics: Mapping[str, Any]) -> float:
    """Return the main figure, of which more is better; of a model without one nothing is worse."""
    return info.main.quality(metrics.get(info.main.key))


def _defended(store: tracking.Store, name: str, holder: str, info: TaskInfo, quality: float, data_md5: str) -> str:
    """Return why the present challenger stays before a model of this quality; empty where it does not.

    On other data its figures say nothing against the model.
    """
    version = store.find(f"models:/{name}/{holder}")
    if version.tags.get("dvc.data.md5") != data_md5 or version.tags.get(promotion.GATE_TAG) != PASSED:
        return ""
    with store.calling():
        own = _quality(info, store.client.get_run(version.run_id).data.metrics)
    if own < quality or math.isinf(own):
        return ""
    key, main = version.tags.get("model.key", name), info.main
    held, best = main.show(main.gain(own)), main.show(main.gain(quality))
    return f"version {holder} ({key}) stays: {main.label} {held} on the same data, the best of these {best}"


def _new_version(store: tracking.Store, params: Params, run: tracking.Run, model: Trained) -> ModelVersion:
    """Return a registered version of the model."""
    try:
        source = _log_model(store, params, run, model)
        tags = {tag: value for tag, value in run.tags.items() if not tag.startswith("mlflow.")}
        # Until the gate's decision is written, it has not passed.
        tags[promotion.GATE_TAG] = UNDECIDED
        return store.create_version(params.register_.model_name, run, source, tags={**tags, "model.key": model.key})
    except tracking.TrackingError:
        # Another process that registers the same was faster, and has withdrawn the model that was logged here.
        version = store.version(params.register_.model_name, run, model.sha256)
        if version is None:
            raise
        return version


def _log_model(store: tracking.Store, params: Params, run: tracking.Run, model: Trained) -> str:
    """Return the model as what is served, once for a run; give its address."""
    return store.log_model(
        run,
        name="model",
        python_model=str(PYFUNC),
        # The profile lies beside the model, so that what serves it can tell drift.
        artifacts={
            "model": str(model.model.resolve()),
            "profile": str((model.evaluation / "profile.json").resolve()),
        },
        code_paths=[str(PACKAGE)],
        pip_requirements=[f"{p}=={installed_version(p).partition('+')[0]}" for p in REQUIREMENTS],
        # What is served predicts as it was evaluated.
        model_config=evaluate_settings(params, model.key).as_json(),
        # Without a schema MLflow lets both forms of input through: rows and arrays. The example shows the rows.
        signature=False,
        input_example={"image": [EXAMPLE]},
        metadata={
            "architecture": model.config["architecture"],
            "classes": model.config["classes"],
            **named(model.task),
        },
    )


def _results(model: Trained) -> dict[str, float]:
    """Return the final metrics: the task's figures, those of parts as `iou/<class>`; cost as `ms_per_image`, …"""
    numbers = {**model.metrics, **model.speed, **{f"train_{k}": v for k, v in model.train_speed.items()}}
    flat = {k: v for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    each = task_info(model.task).each.key
    return finite({**flat, **{f"{each}/{name}": value for name, value in model.metrics["per_class"].items()}})


def _files(model: Trained, validation: Path) -> dict[Path, str]:
    """Return the files of a run and the folders they go to."""
    files = {model.evaluation / name: "evaluation" for name in ("metrics.json", "speed.json")}
    files |= {model.evaluation / name: "evaluation" for name in (PER_IMAGE_FILE, "profile.json")}
    files |= {model.evaluation / name: "evaluation" for name in ("per_class.csv", "confusion.csv")}
    files |= dict.fromkeys(sorted((model.evaluation / "pictures").glob("*.png")), "pictures")
    files |= {validation / name: "validation" for name in ("validation.json", "validation.html")}
    files |= {model.model / "history.csv": "training"}
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise StepError(f"{missing[0]}: no such file; run the step that writes it again")
    return files


def _parents(trained: list[Trained]) -> str:
    folders = {str(folder.parent) for model in trained for folder in (model.model, model.evaluation)}
    return " and ".join(sorted(folders, reverse=True))


def _write(result: RegisterResult, lineage: Lineage, out: Path) -> None:
    content = {
        "experiment": result.experiment,
        "tracking_uri": result.tracking_uri,
        "model_name": result.model_name,
        "challenger": result.challenger,
        "champion": result.champion,
        "versions": [vars(version) for version in result.versions],
        "lineage": {version.key: lineage.tags(version.key) for version in result.versions},
    }
    write_text(out, json.dumps(content, indent=2) + "\n", shared=True)
