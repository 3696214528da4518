"""What `segmodels list` and `segmodels info` print: the registry's cards, with their figures from `figures.csv`.

Nothing here imports torch.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segmodels.catalog import figures
from segmodels.catalog.recipes import flat, from_scratch, sources

if TYPE_CHECKING:
    from segmodels.catalog.registry import ModelInfo

_RIGHT = ("year", "parameters", "GFLOPs", "ms")


def compared() -> dict[str, list[tuple[str, str]]]:
    """Return what each architecture's results are compared with, number by number, and the largest difference.

    `fidelity.csv` has them, which `python -m tests.segmodels.models.oracles` writes.
    """
    comparisons: dict[str, list[tuple[str, str]]] = {}
    with Path(__file__).with_name("fidelity.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            comparisons.setdefault(row["architecture"], []).append((row["source"], row["difference"]))
    return comparisons


def print_list(
    entries: Iterable[figures.Entry], milliseconds: Callable[[str], float] | None = None, *, markdown: bool = False
) -> None:
    """Print a line for each architecture.

    Args:
        entries: The architectures in figures; a column of milliseconds is there where one of them has some.
        milliseconds: Measures a network by its name, in place of what the entries have.
        markdown: As a Markdown table.
    """
    entries = list(entries)
    timed = milliseconds is not None or any(entry.milliseconds is not None for entry in entries)
    headings = ["name", "paper", "year", "task", "parameters", "GFLOPs", *(["ms"] if timed else [])]
    rows = []
    for entry in entries:
        taken = entry.milliseconds if milliseconds is None else milliseconds(entry.name)
        row = [entry.name, entry.paper, str(entry.year), entry.task, f"{entry.parameters:,}", f"{entry.gflops:.1f}"]
        rows.append([*row, *([_rounded(taken)] if timed else [])])
    if not markdown:
        _print_table(headings, rows)
        return
    rule = ["---:" if heading in ("parameters", "GFLOPs", "ms") else "---" for heading in headings]
    for cells in (headings, rule, *rows):
        print(f"| {' | '.join(cells)} |")


def print_card(
    card: ModelInfo, entry: figures.Entry, classes: int, chosen: Mapping[str, Any], *, as_json: bool
) -> None:
    """Print the card of an architecture.

    Args:
        card: From the registry.
        entry: Parameters, operations and, where they were measured, milliseconds.
        classes: The number of classes that the figures are of.
        chosen: The keywords that they are of, where these differ from the defaults.
        as_json: As JSON, not for reading.
    """
    if as_json:
        print(json.dumps(_content(card, entry, classes, chosen), indent=2, default=str))
    else:
        _print_content(_content(card, entry, classes, chosen))


def _content(card: ModelInfo, entry: figures.Entry, classes: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "name": card.name,
        "paper": card.paper,
        "authors": card.authors,
        "venue": card.venue,
        "year": card.year,
        "arxiv": card.arxiv or None,
        "tasks": list(card.tasks),
        "pinned_by": card.pins or None,
        "options": card.options,
        "backbones": list(card.backbones),
        "chosen": dict(chosen),
        "classes": classes,
        "parameters": entry.parameters,
        "parameters_training": entry.parameters_training,
        "gflops": entry.gflops,
        "milliseconds": entry.milliseconds,
        "image_size": list(figures.SIZE),
        "measured_on": f"{entry.machine}, {entry.date}" if entry.milliseconds is not None else None,
        "parameters_of_the_paper": _by_classes(card.parameters),
        "parameters_of_variants": _variants(card.variants),
        "training_parameters_of_variants": _variants(card.training_parameters),
        "published": dict(card.published),
        "differences": list(card.differences),
        "compared_with": [source for source, _ in compared().get(card.name, ())],
        "unconfirmed": list(card.unconfirmed),
        "scratch": from_scratch(card.name),
        "recipe": dict(card.recipe),
        "testing": dict(card.testing),
        "recipe_sources": sources(card.name),
        "onnx": card.onnx or None,
    }


def _variants(known: Sequence[tuple[Mapping[str, Any], Mapping[int, int]]]) -> list[dict[str, Any]]:
    return [{"options": dict(options), "parameters": _by_classes(counts)} for options, counts in known]


def _by_classes(counts: Mapping[int, int]) -> dict[str, int]:
    return {str(classes): count for classes, count in counts.items()}


def _print_content(card: Mapping[str, Any]) -> None:
    of = f"{card['classes']} classes{''.join(f', {k}={v}' for k, v in card['chosen'].items())}"
    training = card["parameters_training"] if card["parameters_training"] != card["parameters"] else None
    height, width = card["image_size"]
    variants = [_variant(variant) for variant in card["parameters_of_variants"]]
    variants += [f"{_variant(variant)} in training" for variant in card["training_parameters_of_variants"]]
    rows = {
        "paper": card["paper"],
        "authors": card["authors"],
        "appeared": card["venue"] + (f", arXiv {card['arxiv']}" if card["arxiv"] else ""),
        "tasks": ", ".join(card["tasks"]),
        "pinned by": card["pinned_by"],
        "parameters": f"{card['parameters']:,} ({of})" + (f"; {training:,} in training" if training else ""),
        "variants": "\n".join(variants),
        "GFLOPs": f"{card['gflops']:.1f} ({height}x{width})",
        "ms": f"{_rounded(card['milliseconds'])} ({card['measured_on']})" if card["measured_on"] else "",
        "keywords": _lines(card["options"]),
        "backbones": ", ".join(card["backbones"]),
        "published": "\n".join(f"{k}: {v}" for k, v in card["published"].items()),
        "differences": "\n".join(card["differences"]),
        "compared with": "\n".join(card["compared_with"]),
        "unconfirmed": "\n".join(card["unconfirmed"]),
        "defaults": _lines(card["scratch"]),
        "recipe": _by_source(card),
        "no ONNX": card["onnx"],
    }
    table = Table(title=card["name"], title_justify="left", show_header=False, box=None, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column()
    for heading, text in rows.items():
        if text:
            table.add_row(heading, Text(text))
    _console().print(table)


def _by_source(card: Mapping[str, Any]) -> str:
    """Return the recipe's settings, those of one source together, and below each group where it is written."""
    groups: dict[str, list[str]] = {}
    for key, value in flat(card["recipe"], card["testing"]).items():
        source = card["recipe_sources"].get(key, "ours")
        groups.setdefault(source, []).append(f"{key}={json.dumps(value)}")
    return "\n".join(f"{'  '.join(settings)}\n    {source}" for source, settings in groups.items())


def _variant(variant: Mapping[str, Any]) -> str:
    """`backbone="resnet50": 39,638,869 (21 classes), 39,638,355 (19)`."""
    options = ", ".join(f"{k}={json.dumps(v, default=str)}" for k, v in variant["options"].items())
    first, *others = variant["parameters"].items()
    counts = [f"{first[1]:,} ({first[0]} classes)", *(f"{count:,} ({classes})" for classes, count in others)]
    return f"{options or 'defaults'}: {', '.join(counts)}"


def _lines(settings: Mapping[str, Any]) -> str:
    return "\n".join(f"{k} = {json.dumps(v, default=str)}" for k, v in settings.items())


def _rounded(milliseconds: float | None) -> str:
    return "" if milliseconds is None else f"{milliseconds:.0f}"


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a row a line: the second column gets what the others leave, and is cut off there."""
    console, gap = _console(), 2
    widths = [max(len(cell) for cell in column) for column in zip(headings, *rows, strict=True)]
    widths[1] = max(10, min(widths[1], console.width - sum(widths) + widths[1] - gap * len(widths)))
    table = Table(box=None, padding=(0, gap, 0, 0))
    for heading, width in zip(headings, widths, strict=True):
        justify: Literal["left", "right"] = "right" if heading in _RIGHT else "left"
        table.add_column(heading, width=width, no_wrap=True, overflow="ellipsis", justify=justify)
    for row in rows:
        table.add_row(*row)
    console.print(table, highlight=False)


def _console() -> Console:
    # Without a terminal rich takes 80 columns, which cuts names off.
    return Console(width=None if sys.stdout.isatty() else int(os.environ.get("COLUMNS", "100")))
