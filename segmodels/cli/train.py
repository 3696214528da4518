"""`segmodels train`: from labelled images to a model folder."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from segmodels.catalog.registry import ModelInfo
    from segmodels.settings.schema import TrainSettings
from segmodels.cli.common import Options, app, architectures, chosen_options, meta_model, tasks
from segmodels.cli.data import check_layout, dataset_folder, may_replace


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a folder with images and labels.")],
    model: Annotated[str, typer.Option(help="The architecture.", autocompletion=architectures)],
    out: Annotated[Path, typer.Option(help="The model folder to write.")],
    task: Annotated[
        str, typer.Option(help="What it learns: semantic, depth or normals.", autocompletion=tasks)
    ] = "semantic",
    epochs: Annotated[int | None, typer.Option(min=1, help="Passes over the training set.")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images per step.")] = None,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    weights: Annotated[str | None, typer.Option(help="Model folder or file to start from.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Everything random follows from it.")] = 0,
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="A training setting, e.g. augment.crop=[192,256]."),
    ] = None,
    option: Options = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a model folder that exists.")] = False,
) -> None:
    """Train an architecture on labelled images.

    Interrupted, the same command goes on where it stopped. DATA is a dataset folder, or any folder whose layout is
    known; that is converted first, to OUT.data.
    """
    from segmodels.catalog.registry import check_fits, check_name, model_info
    from segmodels.settings.parse import build, parse
    from segmodels.settings.schema import TrainSettings
    from segmodels.tasks import task_info

    # What can be refused without torch, which takes many seconds to import, comes before it.
    check_name(model)
    info = task_info(task)
    info.check_loss(build(TrainSettings, parse(setting or [])).loss)
    may_replace(out, "model.json", "a model folder", overwrite)
    check_layout(data)

    card = model_info(model)
    check_fits(model, task)
    options = chosen_options(card, option)
    given = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "weights": weights}
    settings = _settings(card, setting or [], {k: v for k, v in given.items() if v is not None})
    meta_model(model, 2, options)  # a bad keyword is told before data is converted
    dataset = dataset_folder(data, out)
    backbone = options.pop("backbone", None)

    from segmodels.training.fit import fit

    result = fit(
        dataset,
        out,
        architecture=model,
        task=task,
        settings=settings,
        options=options,
        backbone=backbone,
        seed=seed,
        signature=_signature(settings, options, backbone, seed, dataset),
    )
    print(f"{model}: best validation {info.told(result.figures)} in epoch {result.epoch}; {out}")
    print(
        f"loading took {100 * result.loading:.0f} % of the steps' time, {result.images_per_second:.1f} images/s in all"
    )
    print(f"evaluate it:     segmodels evaluate {out} {dataset} --out {out}.evaluation")
    print(f"predict with it: segmodels predict IMAGES --model {out} --out predictions")
    print(f"serve it:        segmodels serve {out}")
    print(f"export it:       segmodels export {out} --format onnx --out {out}.onnx")


def _settings(card: ModelInfo, pairs: Sequence[str], given: Mapping[str, Any]) -> TrainSettings:
    """Return the defaults, under the paper's recipe where asked for, under what the command line says."""
    from segmodels.catalog.recipes import from_scratch
    from segmodels.settings.parse import build, parse
    from segmodels.settings.schema import TrainSettings, merge, on_recipe, with_defaults

    over = merge(parse(pairs), given)
    build(TrainSettings, over)
    base = dataclasses.asdict(TrainSettings())
    paper = over.get("recipe") == "paper"
    values = on_recipe(base, card.recipe, over) if paper else with_defaults(base, from_scratch(card.name), over)
    return build(TrainSettings, values)


def _signature(
    settings: TrainSettings, options: Mapping[str, Any], backbone: str | None, seed: int, dataset: Path
) -> str:
    """Change with the settings and the data's files, so that training goes on only with what it began with."""
    files = sorted((str(p.relative_to(dataset)), p.stat().st_size) for p in dataset.rglob("*") if p.is_file())
    content = [dataclasses.asdict(settings), dict(options), backbone, seed, files]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
