"""What `segmodels list` and `segmodels info` print: the registry's cards, with their figures from `zoo.csv`.

Nothing here imports torch unless figures are asked for that the file does not have.
"""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.table import Table
from rich.text import Text

from segmodels import zoo
from segmodels.recipes import flat, from_scratch, sources

if TYPE_CHECKING:
    from segmodels.registry import ModelInfo

_RIGHT = ("year", "parameters", "GFLOPs", "ms")


def compared() -> dict[str, list[tuple[str, str]]]:
    """Return what each architecture's results are compared with, number by number, and the largest difference.

    `fidelity.csv` has them, which `python -m tests.segmodels.models.oracles` writes.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    with Path(__file__).with_name("fidelity.csv").open(newline="", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            found.setdefault(row["architecture"], []).append((row["source"], row["difference"]))
    return found


def print_list(classes: int = zoo.CLASSES, *, timed: bool = False, markdown: bool = False) -> None:
    """Prints a line for each architecture.

    Args:
        classes: Number of classes; the figures of 11 are read, those of others computed.
        timed: Measures milliseconds on this machine; otherwise they are those of `zoo.csv`, for 11 classes alone.
        markdown: As a Markdown table.
    """
    listed = classes == zoo.CLASSES
    entries = list(zoo.read().values()) if listed else _computed(classes)
    headings = ["name", "paper", "year", "task", "parameters", "GFLOPs", *(["ms"] if listed or timed else [])]
    rows = []
    for entry in entries:
        taken = zoo.measured(entry.name, classes) if timed else entry.milliseconds
        row = [entry.name, entry.paper, str(entry.year), entry.task, f"{entry.parameters:,}", f"{entry.gflops:.1f}"]
        rows.append([*row, *([_rounded(taken)] if "ms" in headings else [])])
    if not markdown:
        _print_table(headings, rows)
        return
    rule = ["---:" if heading in ("parameters", "GFLOPs", "ms") else "---" for heading in headings]
    for cells in (headings, rule, *rows):
        print(f"| {' | '.join(cells)} |")


def print_card(card: ModelInfo, figures: zoo.Entry, classes: int, chosen: Mapping[str, Any], *, as_json: bool) -> None:
    """Prints the card of an architecture.

    Args:
        card: From the registry.
        figures: Parameters, operations and, where they are known, milliseconds.
        classes: The number of classes that the figures are of.
        chosen: The keywords that they are of, where these differ from the defaults.
        as_json: As JSON, not for reading.
    """
    if as_json:
        print(json.dumps(_content(card, figures, classes, chosen), indent=2, default=str))
    else:
        _print_content(_content(card, figures, classes, chosen))


def figures(name: str, classes: int, chosen: Mapping[str, Any]) -> zoo.Entry:
    """Of an architecture: from `zoo.csv` where it has them, otherwise computed."""
    entries = zoo.read()
    if classes == zoo.CLASSES and not chosen and name in entries:
        return entries[name]
    return zoo.computed(name, classes, dict(chosen))


def _computed(classes: int) -> list[zoo.Entry]:
    from segmodels.registry import list_models

    return [zoo.computed(name, classes) for name in list_models()]


def _content(card: ModelInfo, figures: zoo.Entry, classes: int, chosen: Mapping[str, Any]) -> dict[str, Any]:
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
        "parameters": figures.parameters,
        "parameters_training": figures.parameters_training,
        "gflops": figures.gflops,
        "milliseconds": figures.milliseconds,
        "image_size": list(zoo.SIZE),
        "measured_on": f"{figures.machine}, {figures.date}" if figures.milliseconds is not None else None,
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
        "task": card["task"],
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
    """The recipe's settings, those of one source together, and below each group where it is written."""
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
    """A row a line: the second column gets what the others leave, and is cut off there."""
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
