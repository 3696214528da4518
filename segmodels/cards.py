"""What `segmodels list` and `segmodels info` print: the registry's cards, with numbers computed without memory."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from rich.text import Text

from segmodels.checkpoint import ModelConfig
from segmodels.data.dataset import ClassInfo
from segmodels.evaluation import gflops, milliseconds
from segmodels.inference import channels_last
from segmodels.registry import ModelInfo, count_parameters, create_model, full_size, list_models, model_info

# The size at which architectures are compared: CamVid's.
SIZE = (360, 480)
_LEFT = ("name", "paper", "task")


def print_list(classes: int, *, timed: bool = False, markdown: bool = False) -> None:
    """Prints a line for each architecture, with milliseconds on this machine where `timed`."""
    rows = []
    for name in list_models():
        card = model_info(name)
        row = [name, card.paper, str(card.year), card.task, f"{count_parameters(full_size(name, classes)):,}"]
        row.append(f"{_gflops(name, classes):.1f}")
        if timed:
            row.append(f"{_milliseconds(name, classes):.0f}")
        rows.append(row)
    headings = ["name", "paper", "year", "task", "parameters", "GFLOPs", *(["ms"] if timed else [])]
    if not markdown:
        _print_table(headings, rows)
        return
    rule = ["---:" if heading in ("parameters", "GFLOPs", "ms") else "---" for heading in headings]
    for cells in (headings, rule, *rows):
        print(f"| {' | '.join(cells)} |")


def print_card(card: ModelInfo, classes: int, chosen: Mapping[str, Any], parameters: int, *, as_json: bool) -> None:
    """Prints the card of an architecture.

    Args:
        card: From the registry.
        classes: The number of classes for which the parameters were counted.
        chosen: The keywords with which they were counted, where they differ from the defaults.
        parameters: Their number.
        as_json: As JSON, not for reading.
    """
    if as_json:
        print(json.dumps(_content(card, classes, chosen, parameters), indent=2, default=str))
    else:
        _print_content(_content(card, classes, chosen, parameters))


def _content(card: ModelInfo, classes: int, chosen: Mapping[str, Any], parameters: int) -> dict[str, Any]:
    return {
        "name": card.name,
        "paper": card.paper,
        "authors": card.authors,
        "venue": card.venue,
        "year": card.year,
        "arxiv": card.arxiv or None,
        "task": card.task,
        "pinned_by": card.pins or None,
        "options": card.options,
        "backbones": list(card.backbones),
        "chosen": dict(chosen),
        "classes": classes,
        "parameters": parameters,
        "parameters_of_the_paper": {str(k): v for k, v in card.parameters.items()},
        "published": dict(card.published),
        "differences": list(card.differences),
        "recipe": dict(card.recipe),
    }


def _print_content(card: Mapping[str, Any]) -> None:
    published = [f"{k}: {v}" for k, v in card["published"].items()]
    chosen = "".join(f", {k}={v}" for k, v in card["chosen"].items())
    rows = {
        "paper": card["paper"],
        "authors": card["authors"],
        "appeared": card["venue"] + (f", arXiv {card['arxiv']}" if card["arxiv"] else ""),
        "task": card["task"],
        "pinned by": card["pinned_by"],
        "parameters": f"{card['parameters']:,} ({card['classes']} classes{chosen})",
        "keywords": "\n".join(f"{k} = {json.dumps(v, default=str)}" for k, v in card["options"].items()),
        "backbones": ", ".join(card["backbones"]),
        "published": "\n".join(published),
        "differences": "\n".join(card["differences"]),
        "recipe": "\n".join(f"{k} = {json.dumps(v, default=str)}" for k, v in card["recipe"].items()),
    }
    table = Table(title=card["name"], title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for heading, text in rows.items():
        if text:
            table.add_row(heading, Text(text))
    _console().print(table)


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A row a line: the second column gets what the others leave, and is cut off there."""
    console, gap = _console(), 2
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    widths[1] = max(10, min(widths[1], console.width - sum(widths) + widths[1] - gap * len(widths)))
    table = Table(box=None, padding=(0, gap, 0, 0))
    for heading, width in zip(headings, widths, strict=True):
        left = heading in _LEFT
        table.add_column(heading, width=width, no_wrap=True, overflow="ellipsis", justify="left" if left else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


def _console() -> Console:
    # Without a terminal rich takes 80 columns, which cuts names off.
    return Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "100")))


def _gflops(name: str, classes: int) -> float:
    config = ModelConfig(name, tuple(ClassInfo(str(i), (0, 0, 0)) for i in range(classes)))
    return gflops(config, SIZE)


def _milliseconds(name: str, classes: int) -> float:
    model = channels_last(create_model(name, classes).eval())
    if torch.cuda.is_available():
        model.cuda()
    return milliseconds(model, 3, SIZE, repeat=3)
