"""`segmodels predict`: images, videos and rasters."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from segmodels.cli.common import CommandError, app, complain, crf_settings, device_name, progress_bar


@app.command()
def predict(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Images, videos, rasters; folders or s3:// prefixes of them."),
    ],
    model: Annotated[str, typer.Option(help="The model folder, or models:/NAME@ALIAS of MLflow's registry.")],
    out: Annotated[str, typer.Option(help="Where the results go: a folder, or s3://bucket/prefix.")],
    overlay: Annotated[bool, typer.Option(help="Write the image under the classes' colours, too.")] = True,
    masks: Annotated[bool, typer.Option(help="Write class ids; of a video, a PNG for each frame.")] = True,
    flip: Annotated[
        bool | None, typer.Option("--flip/--no-flip", help="Average with the mirror image's prediction.")
    ] = None,
    scales: Annotated[str | None, typer.Option(help="Sizes whose predictions are averaged, e.g. 0.75,1,1.25.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="HxW", help="Predict in windows of this size; rasters always are.")
    ] = None,
    crf: Annotated[
        str | None, typer.Option(metavar="FILE|default", help="Refine by a dense CRF; `tune-crf` writes the file.")
    ] = None,
    mc_samples: Annotated[
        int | None, typer.Option(min=0, help="Monte-Carlo dropout passes that are averaged; 0 is a plain pass.")
    ] = None,
    alpha: Annotated[float, typer.Option(min=0, max=1, help="Strength of the overlay's colours.")] = 0.5,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Predict also what has its results.")] = False,
) -> None:
    """Predict images, videos and rasters.

    a.jpg gives a.png (class ids, with the classes' colours as palette) and a.overlay.jpg; a.mp4 gives the folder
    a.masks with a PNG for each frame, and a.overlay.mp4; a GeoTIFF, or a TIFF too large for memory, gives a.tif, where
    it lies on the earth, and a.overlay.tif. Folders keep their structure. What has its results already is skipped, so
    an interrupted command goes on. A registered version predicts as it was evaluated, but for what is set here.
    """
    from segmodels.inference import rasters, stores
    from segmodels.inference.files import run
    from segmodels.inference.inputs import Job, find_inputs, plan

    if not (overlay or masks):
        raise CommandError("--no-overlay and --no-masks leave nothing to write")
    size = _window(window)
    given: dict[str, Any] = {
        "flip": flip,
        "scales": _scales(scales) if scales else None,
        "window": size,
        "mc_samples": mc_samples,
        "crf": crf_settings(crf) if crf else None,
    }
    place = stores.Store(out) if stores.is_remote(out) else Path(out)
    items, problems = find_inputs(inputs, place)
    jobs = plan(items, place, masks=masks, overlays=overlay)

    import torch

    from segmodels.artifacts.sources import fetched
    from segmodels.inference.predictor import Predictor
    from segmodels.progress import Heartbeat

    fetched_model = fetched(model)
    predictor = Predictor(
        fetched_model.folder,
        device_name(device, torch.cuda.is_available()),
        # A registered version predicts as it was evaluated; what is given here takes the place of its own.
        settings=fetched_model.settings,
        **{key: value for key, value in given.items() if value is not None},
    )
    for problem in problems:
        complain(problem)
    with progress_bar() as bar:
        task = bar.add_task("", total=len(jobs), frames="")
        frames = done = 0

        def on_frame(job: Job) -> None:
            nonlocal frames
            frames += 1
            bar.update(task, description=job.input.path.name, frames=f"{frames} frames")

        def on_done(job: Job) -> None:
            nonlocal done
            done += 1
            bar.update(task, advance=1, description=job.input.path.name)

        told = Heartbeat(lambda: f"{done} of {len(jobs)} done" + (f", {frames} frames" if frames else ""), sys.stderr)
        told.start()
        outcome = run(
            jobs,
            predictor,
            overwrite=overwrite,
            alpha=alpha,
            # Pixel for pixel where the model has an input size: how much smaller its training images became is unknown.
            window=size or predictor.image_size or rasters.WINDOW,
            on_frame=on_frame,
            on_done=on_done,
            on_problem=complain,
        )
        told.stop()
    failed = len(problems) + len(outcome.problems)
    parts = [f"{outcome.written} written"]
    parts += [f"{outcome.skipped} skipped since their results exist"] if outcome.skipped else []
    parts += [f"{failed} failed"] if failed else []
    print(f"{', '.join(parts)}; {out}")
    if failed:
        raise typer.Exit(1)


def _scales(text: str) -> tuple[float, ...]:
    try:
        factors = tuple(float(part) for part in text.split(","))
    except ValueError:
        factors = ()
    if not factors or min(factors) <= 0:
        raise CommandError(f"--scales is '{text}'; give factors above 0, for example 0.75,1,1.25")
    return factors


def _window(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    sides = text.lower().split("x")
    if len(sides) > 2 or not all(side.isdigit() and int(side) >= 32 for side in sides):
        raise CommandError(f"--window is '{text}'; give HxW of at least 32x32, for example 512x512")
    return int(sides[0]), int(sides[-1])
