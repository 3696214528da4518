"""`segmodels serve`: the server."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from segmodels.cli.common import app, device_name


class ServePrecision(StrEnum):
    auto = "auto"
    float32 = "32"
    bfloat16 = "bf16"
    float16 = "16"


@app.command()
def serve(
    target: Annotated[str, typer.Argument(help="A model folder, or models:/NAME@ALIAS of MLflow's registry.")],
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 is every one.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    precision: Annotated[
        ServePrecision, typer.Option(help="auto is bf16 where the hardware multiplies it fast.")
    ] = ServePrecision.auto,
    poll: Annotated[float, typer.Option(min=0.1, help="Seconds between looks for another version.")] = 5.0,
    profile: Annotated[
        Path | None, typer.Option(help="profile.json of a model folder that does not hold it: /drift compares with it.")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=1, help="Images of one size in one pass; 8 on a GPU, 1 on a CPU.")
    ] = None,
    batch_wait: Annotated[float, typer.Option(min=0, help="Milliseconds that a batch waits for others.")] = 3.0,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait; one more gets 429.")] = 128,
    max_body: Annotated[float, typer.Option(min=0.001, help="Megabytes of a request.")] = 20.0,
    max_pixels: Annotated[float, typer.Option(min=0.001, help="Megapixels of an image.")] = 25.0,
    max_images: Annotated[int, typer.Option(min=1, help="Images of a batch.")] = 16,
    body_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds in which a body must have come.")] = 30.0,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds after which an answer is given up.")] = 60.0,
    drain: Annotated[float, typer.Option(min=1, help="Seconds for what is in flight when told to end.")] = 60.0,
) -> None:
    """Serve a model over HTTP.

    POST an image to /predict; the page at / shows how that looks, /openapi.json describes the rest. The server follows
    its target: when the alias moves, or the folder's files are replaced, it loads the other version beside the one
    that serves and swaps them between two requests. SIGTERM ends it when all that came is answered.
    """
    from segmodels.artifacts.sources import open_source

    source = open_source(target, profile=profile)

    import torch

    from segmodels.serving.server import serve as run
    from segmodels.serving.service import Limits

    run(
        source,
        host=host,
        port=port,
        device=device_name(device, torch.cuda.is_available()),
        precision=precision.value,
        poll=poll,
        batch=batch,
        batch_wait=batch_wait / 1000,
        drain=drain,
        limits=Limits(
            body=round(max_body * 1e6),
            pixels=round(max_pixels * 1e6),
            images=max_images,
            queue=queue,
            receiving=body_timeout,
            answering=timeout,
        ),
    )
