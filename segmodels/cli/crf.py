"""`segmodels tune-crf`: the settings of a dense CRF."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from segmodels.settings.schema import CRFSettings
from segmodels.cli.common import app, device_name


@app.command("tune-crf")
def tune_crf_command(
    model: Annotated[Path, typer.Argument(help="The model folder.")],
    data: Annotated[Path, typer.Argument(help="The dataset folder; its val split is used.")],
    out: Annotated[Path, typer.Option(help="The JSON file to write, for `predict --crf`.")],
    images: Annotated[int, typer.Option(min=1, help="Validation images to search on.")] = 20,
    flip: Annotated[bool, typer.Option("--flip", help="Average with the mirror image's prediction.")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Search the settings of a dense CRF after a model.

    A coarse grid over the bilateral kernel, then a finer one around its best point, by mIoU on validation images. What
    it finds goes to a file, and as `evaluate.crf` into params.yaml. Where no setting gains, it says so and writes none.
    """
    import torch

    from segmodels.inference.crf_search import Trial, tune_crf
    from segmodels.inference.predictor import Predictor

    predictor = Predictor(model, device_name(device, torch.cuda.is_available()), flip=flip)

    def told(trial: Trial) -> None:
        print(f"{100 * trial.figure:6.2f} %  {_shown(trial.settings)}", flush=True)

    best, *others = tune_crf(predictor, data, images=images, on_trial=told)
    plain = next(trial for trial in (best, *others) if trial.settings is None)
    if best.settings is None:
        print(f"no setting gains over the model alone ({100 * plain.figure:.2f} % mIoU); nothing was written")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(dataclasses.asdict(best.settings), indent=2) + "\n")
    print(f"{100 * plain.figure:.2f} % mIoU without, {100 * best.figure:.2f} % with {_shown(best.settings)}; {out}")
    print(f"predict with it: segmodels predict IMAGES --model {model} --crf {out} --out predictions")


def _shown(settings: CRFSettings | None) -> str:
    if settings is None:
        return "no CRF"
    return ", ".join(f"{key} {value:g}" for key, value in dataclasses.asdict(settings).items())
