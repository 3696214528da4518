"""`segmodels evaluate`: what a model is worth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import app, device_name
from segmodels.cli.data import check_layout, dataset_folder, may_replace


@app.command()
def evaluate(
    model: Annotated[Path, typer.Argument(help="The model folder.")],
    data: Annotated[Path, typer.Argument(help="A dataset folder, or a folder with images and labels.")],
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    setting: Annotated[
        list[str] | None,
        typer.Option("-s", "--set", metavar="KEY=VALUE", help="A setting, e.g. flip=true or scales=[0.75,1,1.25]."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an evaluation that exists.")] = False,
) -> None:
    """Evaluate a model on the test split, on val where there is none.

    OUT gets metrics.json, per_class.csv, confusion.csv, per_image.npz, speed.json, pictures of the best, median and
    worst image, some predictions, and profile.json, which `segmodels drift` compares with.
    """
    from segmodels.settings.parse import build, parse
    from segmodels.settings.schema import EvaluateSettings

    settings = build(EvaluateSettings, parse(setting or []))
    may_replace(out, "metrics.json", "an evaluation", overwrite)
    check_layout(data)
    folder = dataset_folder(data, out)

    import torch

    from segmodels.evaluation.evaluate import evaluate as run
    from segmodels.tasks import task_info

    quality = run(model, folder, out, settings, device=device_name(device, torch.cuda.is_available()))
    info = task_info(quality.per_image.task)
    told = ", ".join(f"{figure.label} {figure.show(quality.metrics[figure.key])}" for figure in info.shown)
    print(f"{quality.split}, {len(quality.own)} images: {told}; {out}")
    for name, value in quality.metrics["per_class"].items():
        print(f"  {name:<20} {info.each.show(value):>8}")
