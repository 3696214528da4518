"""`segmodels list | info`: the architectures."""

from __future__ import annotations

from functools import partial
from typing import Annotated

import typer

from segmodels.cli.common import Options, app, architectures, chosen_options, meta_model


@app.command("list")
def list_command(
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 11,
    time: Annotated[bool, typer.Option("--time", help="Measure milliseconds on this machine.")] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print a Markdown table, as in docs/architectures.md.")
    ] = False,
) -> None:
    """List the architectures, with parameters, GFLOPs and milliseconds.

    GFLOPs and milliseconds are those of one 360x480 image; a multiply-add is two operations. Those of 11 classes are
    known beforehand, and `segmodels info` tells on which machine the milliseconds were taken.
    """
    from segmodels.catalog import figures
    from segmodels.catalog.cards import print_list

    milliseconds = None
    entries = list(figures.read().values())
    if time or classes != figures.CLASSES:  # these need torch
        from segmodels.catalog.registry import list_models
        from segmodels.evaluation import speed

        if classes != figures.CLASSES:
            entries = [speed.figures(name, classes) for name in list_models()]
        if time:
            milliseconds = partial(speed.street_milliseconds, classes=classes)
    print_list(entries, milliseconds, markdown=markdown)


@app.command()
def info(
    name: Annotated[
        str, typer.Argument(help="An architecture; `segmodels list` has them.", autocompletion=architectures)
    ],
    classes: Annotated[int, typer.Option(min=1, help="Number of classes.")] = 11,
    option: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the card of an architecture.

    Citation, what pins it, keywords, the exact number of parameters, GFLOPs, milliseconds, published results, known
    differences, the paper's recipe.
    """
    from segmodels.catalog import figures
    from segmodels.catalog.cards import print_card
    from segmodels.catalog.registry import model_info

    card = model_info(name)
    chosen = chosen_options(card, option)
    meta_model(name, classes, chosen)  # a bad keyword is told as what it is
    entry = figures.read().get(name)
    if entry is None or classes != figures.CLASSES or chosen:
        from segmodels.evaluation import speed

        entry = speed.figures(name, classes, chosen)
    print_card(card, entry, classes, chosen, as_json=as_json)
