"""The application, and what several commands share."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from segmodels.errors import UserError
from segmodels.files import ContentError, read_json

if TYPE_CHECKING:
    from torch import nn

    from segmodels.catalog.registry import ModelInfo
    from segmodels.settings.schema import CRFSettings

app = typer.Typer(
    help="Semantic segmentation: architectures, training, prediction.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,  # rich's help costs a third of a second in imports
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class CommandError(UserError):
    """What was asked for cannot be done; the message says why."""


Options = Annotated[
    list[str] | None, typer.Option("-o", "--option", metavar="KEY=VALUE", help="A keyword of the architecture.")
]


def architectures(begun: str) -> list[str]:
    """Return the architectures whose name begins so, for the shell's completion; none of them is imported."""
    from segmodels.catalog.registry import list_models

    return [name for name in list_models() if name.startswith(begun)]


def tasks(begun: str) -> list[str]:
    """Return the tasks whose name begins so, for the shell's completion."""
    from segmodels.tasks import list_tasks

    return [name for name in list_tasks() if name.startswith(begun)]


def crf_settings(given: str) -> CRFSettings:
    """Return settings from a file of `tune-crf`, or the defaults."""
    from segmodels.settings.parse import build
    from segmodels.settings.schema import CRFSettings

    if given == "default":
        return CRFSettings()
    try:
        values = read_json(Path(given), 1 << 16)
    except FileNotFoundError:
        raise CommandError(f"{given}: no such file; --crf takes a file of `segmodels tune-crf`, or `default`") from None
    except ContentError as error:
        raise CommandError(f"{error}; --crf takes a file of `segmodels tune-crf`, or `default`") from None
    if not isinstance(values, dict):
        raise CommandError(f"{given}: no settings; --crf takes a file of `segmodels tune-crf`, or `default`")
    return build(CRFSettings, values, given)


def complain(problem: str) -> None:
    print(f"error: {problem}", file=sys.stderr, flush=True)


def progress_bar() -> Any:
    from rich import progress
    from rich.console import Console

    return progress.Progress(
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.description} {task.fields[frames]}", markup=False),
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    )


def chosen_options(card: ModelInfo, pairs: Sequence[str] | None) -> dict[str, Any]:
    """Return keywords of the architecture from `KEY=VALUE`; an unknown one is refused with the nearest name."""
    from segmodels.errors import UnknownModelError, nearest
    from segmodels.settings.parse import parse

    chosen = parse(pairs or [])
    for key in chosen:
        if key not in card.options:
            raise UnknownModelError(f"{card.name}: unknown keyword '{key}'{nearest(key, card.options)}")
        default = card.options[key]
        if isinstance(default, int | float) and not isinstance(chosen[key], int | float):
            raise CommandError(f"{card.name}: {key} is {json.dumps(chosen[key])}; its default is {json.dumps(default)}")
    return chosen


def meta_model(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """Return the architecture without memory; what its own checks refuse is the user's to mend."""
    from segmodels.catalog.registry import full_size

    try:
        return full_size(name, classes, **options)
    except UserError:
        raise
    except (ValueError, TypeError) as error:
        raise CommandError(f"{name}: {error}") from None


def device_name(name: str, gpu: bool) -> str:
    if name not in ("auto", "cpu", "cuda") and not name.removeprefix("cuda:").isdigit():
        raise CommandError(f"--device is '{name}'; give auto, cpu or cuda")
    if name.startswith("cuda") and not gpu:
        raise CommandError(f"--device is '{name}', but there is no GPU that torch can use")
    return name
