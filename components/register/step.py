"""Completes the MLflow run of each model and registers a version for each that passes the gate."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Any

from components import tracking
from components.errors import StepError
from components.lineage import Lineage, file_sha256, model_settings
from components.params import Params, Register, evaluate_settings

ALIAS = "challenger"
GATE_TAG = "gate"
PYFUNC = Path(__file__).with_name("pyfunc_model.py")
PACKAGE = Path(__file__).parents[2] / "segmodels"
SERVING_KEYS = (
    "flip",
    "scales",
    "window",
    "stride",
    "image_size",
    "crf",
)  # what is served predicts as it was evaluated
REQUIREMENTS = ("mlflow", "numpy", "pandas", "pillow", "safetensors", "timm", "torch", "torchvision")
# A grey PNG of 32 x 32 pixels.
EXAMPLE = "iVBORw0KGgoAAAANSUhEUgAAACAAAAAgCAAAAABWESUoAAAAGElEQVR42mNsYMAPmBhGFYwqGFUwQhUAAJe+AMD8WknZAAAAAElFTkSuQmCC"


@dataclass(frozen=True)
class Version:
    """What became of one model.

    Attributes:
        key: Its key under `models`.
        run_id: Its MLflow run.
        version: Number of its registered version; None where it did not pass the gate.
        passed: Whether it passed the gate.
        reason: Why not, or `passed`.
    """

    key: str
    run_id: str
    version: str | None
    passed: bool
    reason: str


@dataclass(frozen=True)
class RegisterResult:
    """The content of `register.json`."""

    experiment: str
    tracking_uri: str
    model_name: str
    versions: tuple[Version, ...]
    challenger: str | None

    def __str__(self) -> str:
        lines = [f"{v.key}: {f'version {v.version}' if v.passed else f'no version, {v.reason}'}" for v in self.versions]
        return "\n".join([*lines, f"challenger of {self.model_name}: {self.challenger or 'none passed the gate'}"])


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
    """Records every model in MLflow; a second call changes nothing.

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
    report = _read_json(validation / "validation.json", "validate")
    try:
        result = _register(params, trained, data, validation, report, lineage)
    except tracking.TrackingError as error:
        raise StepError(
            f"{error}; nothing is lost: the trained models and their evaluation lie in {_parents(trained)}; when "
            "MLflow is back, run this step again (`dvc repro register`)"
        ) from error
    _write(result, lineage, out)
    return result


def gate(settings: Register, metrics: Mapping[str, Any]) -> str:
    """`passed`, or the sentence that says why a model gets no version."""
    miou = metrics["miou"]
    if miou is None or miou < settings.min_miou:
        shown = "undefined" if miou is None else _percent(miou)
        return f"mIoU is {shown}, below register.min_miou, {_percent(settings.min_miou)}"
    low = {n: iou for n, iou in metrics["per_class"].items() if iou is not None and iou < settings.min_class_iou}
    if low:
        shown = ", ".join(f"{name} {_percent(iou)}" for name, iou in low.items())
        return f"IoU below register.min_class_iou, {_percent(settings.min_class_iou)}: {shown}"
    return "passed"


def read_model(key: str, model: Path, evaluation: Path) -> Trained:
    """Reads what `train` and `evaluate` wrote for a model.

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
        config=_read_json(model / "model.json", "train"),
        history=read_history(model / "history.csv"),
        metrics=_read_json(evaluation / "metrics.json", "evaluate"),
        speed=_read_json(evaluation / "speed.json", "evaluate"),
        train_speed=_read_json(model / "speed.json", "train"),
        sha256=file_sha256(weights),
    )


def read_history(path: Path) -> dict[int, dict[str, float]]:
    """`history.csv`: epoch -> metrics; what was not measured in an epoch is left out.

    Raises:
        StepError: The file is missing or not a history.
    """
    try:
        with path.open(newline="") as file:
            return {
                int(row["epoch"]): tracking.finite({k: v for k, v in row.items() if k not in ("epoch", "step") and v})
                for row in csv.DictReader(file)
            }
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; run `train` again") from None
    except (KeyError, ValueError, TypeError) as error:
        raise StepError(f"{path}: not a training history ({error!r}); run `train` again") from None


def flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as `a.b.c` -> value; a list stays one value, an address loses its password."""
    if isinstance(value, Mapping) and value:
        return {k: v for name, item in value.items() for k, v in flatten(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): tracking.public_uri(value) if isinstance(value, str) else value}


def model_card(model: Trained, warnings: list[str], model_name: str, version: str | None = None) -> str:
    """The Markdown card of a version."""
    metrics, speed = model.metrics, model.speed
    size = " x ".join(str(side) for side in speed["image_size"])
    lines = [
        f"**{model.key}**: mIoU **{_percent(metrics['miou'])}**, pixel accuracy {_percent(metrics['pixel_accuracy'])}, "
        f"boundary F1 {_percent(metrics['boundary_f1'])}, ECE {_percent(metrics['ece'])} on {metrics['images']} images "
        f"of the {metrics['split']} split, at full resolution.",
        "",
        f"{speed['parameters']:,} parameters, {speed['gflops']:.2f} GFLOPs and {speed['ms_per_image']:.1f} ms per "
        f"image of {size} on {speed['device']}.",
        "",
        "| class | IoU |",
        "|---|---:|",
        *(f"| {name} | {_percent(iou)} |" for name, iou in metrics["per_class"].items()),
        "",
    ]
    if warnings:
        lines += ["**The data has warnings:**", "", *(f"- {warning}" for warning in warnings), ""]
    lines += [
        "```python",
        f'model = mlflow.pyfunc.load_model("models:/{model_name}@{ALIAS}")',
        "model.predict(image)                       # uint8 [H, W, 3] -> class ids [H, W]",
        'model.predict([{"image": base64_of_a_file}])  # -> rows with classes (base64 PNG), height, width',
        "```",
    ]
    return "\n".join(lines)


def _register(
    params: Params, trained: list[Trained], data: Path, validation: Path, report: dict[str, Any], lineage: Lineage
) -> RegisterResult:
    settings = params.register_
    store = tracking.Store(settings.experiment)
    warnings = [str(warning["message"]) for warning in report["warnings"]]
    dataset = _read_json(data / "dataset.json", "download")
    versions = []
    for model in trained:
        reason = gate(settings, model.metrics)
        passed = reason == "passed"
        run = store.run_of(model.key, lineage.tags(model.key), model.sha256, model.history)
        run.set_status("RUNNING")
        run.log_params(flatten(model_settings(params, model.key)))
        run.log_steps(model.history)
        run.log_results(_results(model))
        run.log_files(_files(model, validation))
        source = json.dumps(flatten(dataset.get("source", {})), sort_keys=True)
        run.log_dataset(str(dataset["name"]), lineage.data_md5, source)
        known = {name: value for name, value in lineage.tags(model.key).items() if name not in run.tags}
        run.set_tags({**known, tracking.MODEL_TAG: model.sha256, GATE_TAG: reason})
        as_evaluated = dataclasses.asdict(evaluate_settings(params, model.key))
        serving = {name: as_evaluated[name] for name in SERVING_KEYS}
        number = _version(store, run, model, settings.model_name, warnings, serving) if passed else None
        run.set_status("FINISHED")
        versions.append(Version(model.key, run.id, number, passed, reason))
    best = max((m for m, v in zip(trained, versions, strict=True) if v.passed), key=_miou, default=None)
    if best is not None:
        number = next(v.version for v in versions if v.key == best.key)
        store.set_alias(settings.model_name, ALIAS, str(number))
    return RegisterResult(
        experiment=settings.experiment,
        tracking_uri=tracking.public_uri(store.uri),
        model_name=settings.model_name,
        versions=tuple(versions),
        challenger=best.key if best else None,
    )


def _version(
    store: tracking.Store, run: tracking.Run, model: Trained, name: str, warnings: list[str], serving: dict[str, Any]
) -> str:
    """The model's registered version, made where there is none."""
    found = store.version(name, run, model.sha256)
    if found is None:
        source = store.log_model(
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
            model_config=serving,
            # Without a schema MLflow lets both forms of input through: rows and arrays. The example shows the rows.
            signature=False,
            input_example={"image": [EXAMPLE]},
            metadata={"architecture": model.config["architecture"], "classes": model.config["classes"]},
        )
        lineage = {tag: value for tag, value in run.tags.items() if not tag.startswith("mlflow.")}
        card = model_card(model, warnings, name)
        found = store.create_version(name, run, source, tags={**lineage, "model.key": model.key}, description=card)
    return str(found.version)


def _results(model: Trained) -> dict[str, float]:
    """The final metrics: quality as `miou`, `iou/<class>`, …; cost as `parameters`, `ms_per_image`, …"""
    numbers = {**model.metrics, **model.speed, **{f"train_{k}": v for k, v in model.train_speed.items()}}
    flat = {k: v for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    return tracking.finite({**flat, **{f"iou/{name}": iou for name, iou in model.metrics["per_class"].items()}})


def _files(model: Trained, validation: Path) -> dict[Path, str]:
    """The files of a run and the folders they go to."""
    files = {model.evaluation / name: "evaluation" for name in ("metrics.json", "speed.json", "profile.json")}
    files |= {model.evaluation / name: "evaluation" for name in ("per_class.csv", "confusion.csv")}
    files |= dict.fromkeys(sorted((model.evaluation / "pictures").glob("*.png")), "pictures")
    files |= {validation / name: "validation" for name in ("validation.json", "validation.html")}
    files |= {model.model / "history.csv": "training"}
    missing = [path for path in files if not path.is_file()]
    if missing:
        raise StepError(f"{missing[0]}: no such file; run the step that writes it again")
    return files


def _miou(model: Trained) -> float:
    return float(model.metrics["miou"])


def _percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.1f} %"


def _parents(trained: list[Trained]) -> str:
    folders = {str(folder.parent) for model in trained for folder in (model.model, model.evaluation)}
    return " and ".join(sorted(folders, reverse=True))


def _read_json(path: Path, step: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; `python -m components {step}` writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StepError(f"{path}: not JSON ({error}); run `{step}` again") from None
    if not isinstance(content, dict):
        raise StepError(f"{path}: not a JSON object; run `{step}` again")
    return content


def _write(result: RegisterResult, lineage: Lineage, out: Path) -> None:
    content = {
        "experiment": result.experiment,
        "tracking_uri": result.tracking_uri,
        "model_name": result.model_name,
        "challenger": result.challenger,
        "versions": [vars(version) for version in result.versions],
        "lineage": {version.key: lineage.tags(version.key) for version in result.versions},
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    part = out.with_name(out.name + ".part")
    part.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(part, out)
