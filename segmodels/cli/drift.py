"""`segmodels drift`: whether images are still like those of the training."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import app, complain, device_name, progress_bar


@app.command()
def drift(
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Images, or folders of them.")],
    model: Annotated[Path, typer.Option(help="The model folder.")],
    reference: Annotated[Path, typer.Option(help="The profile.json that evaluation wrote for this model.")],
    out: Annotated[list[Path], typer.Option(help="What to write: a .html, .json or .prom file; may be repeated.")],
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Tell whether images are still like those a model was trained on, and its predictions as they were.

    Brightness, contrast, colours, sharpness, noise and size are compared with the training images', class mix and
    confidence with those on evaluated images; the report names what moved, which images to label first, and how to
    retrain.
    """
    import torch

    from segmodels.drift import report as reporting
    from segmodels.drift.profile import DriftError, Profile
    from segmodels.inference.inputs import find_inputs

    for path in out:
        reporting.check_suffix(path)
    profile = Profile.read(reference)
    items, problems = find_inputs(images, out[0])
    paths = [item.path for item in items if item.kind == "image"]
    if not paths:
        raise DriftError(problems[0] if problems else f"{images[0]}: holds no image")
    with progress_bar() as bar:
        task = bar.add_task("", total=len(paths), frames="")
        report, seen, predictor = reporting.measure(
            paths,
            model,
            profile,
            device=device_name(device, torch.cuda.is_available()),
            on_done=lambda path: bar.update(task, advance=1, description=path.name),
        )
    for problem in (*problems, *report.problems):
        complain(problem)
    for path in out:
        reporting.write(path, report, profile, seen, predictor)
    print(report.drift.verdict)
    if report.label:
        print(f"label {report.label} images first, beginning with {report.candidates[0].path}")
    print(", ".join(str(path) for path in out))
    if problems or report.problems:
        raise typer.Exit(1)
