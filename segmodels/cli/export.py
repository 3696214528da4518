"""`segmodels export`: a model as one file."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import CommandError, app


class ExportFormat(StrEnum):
    pt2 = "pt2"
    onnx = "onnx"
    torchscript = "torchscript"


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(help="The model folder.")],
    format: Annotated[ExportFormat, typer.Option(help="The file's format.")],  # noqa: A002
    out: Annotated[Path, typer.Option(help="The file to write.")],
    raw: Annotated[bool, typer.Option("--raw", help="The bare network: normalised batches to logits.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Quantise ONNX to 8-bit integers; needs --data.")] = False,
    data: Annotated[Path | None, typer.Option(help="Dataset folder to check and calibrate on.")] = None,
) -> None:
    """Write a model as one file.

    It takes images, RGB uint8 [N, H, W, 3] of any size, and gives class ids, uint8 [N, H, W], and their probability;
    with --raw it takes normalised float32 batches [N, channels, H, W] and gives logits. It carries model.json (classes,
    mean, standard deviation) and interface.json (inputs and outputs), and appears when it gives real images the classes
    that the model gives them: the validation images of --data, or some of `streets`.
    """
    if int8:
        if format is not ExportFormat.onnx or raw:
            raise CommandError("--int8 writes images to class ids in ONNX; give --format onnx without --raw")
        if data is None:
            raise CommandError("--int8 needs --data, a dataset folder: train calibrates, val tells what it costs")
        from segmodels.export.int8 import export_int8

        print(export_int8(folder, out, data))
        return
    from segmodels.export.export import export as write

    print(write(folder, out, format.value, raw=raw, data=data))
