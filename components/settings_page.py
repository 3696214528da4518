"""`python -m components.settings_page`: docs/settings.md, every key of params.yaml, from the schema itself."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel

from components.params import Architecture, Data, Evaluate, Params, Register, Resources, Streets, Validate
from components.rules import Rule
from segmodels.settings.parse import fields, words
from segmodels.settings.schema import AugmentSettings, CRFSettings, TrainSettings

PAGE = Path(__file__).parents[1] / "docs" / "settings.md"
SECTIONS: tuple[tuple[str, Any], ...] = (
    ("", Params),
    ("data", Data),
    ("data.streets", Streets),
    ("validate", Validate),
    ("models.<key>", Architecture),
    ("train", TrainSettings),
    ("train.augment", AugmentSettings),
    ("evaluate", Evaluate),
    ("evaluate.crf", CRFSettings),
    ("register", Register),
    ("register.rules.<figure>", Rule),
    ("resources.<key>", Resources),
)
INTRO = """# Settings

Every key of `params.yaml`, from the schema (`python -m components.settings_page` writes this page). `dvc exp run -S
KEY=VALUE` sets one for an experiment, `segmodels train -s KEY=VALUE` those of `train`. An unknown key is an error that
names the nearest one.
"""


def page() -> str:
    """Return the page."""
    return "\n".join([INTRO, *(part for name, kind in SECTIONS for part in _section(name, kind))])


def _section(name: str, kind: Any) -> Iterator[str]:
    yield f"## `{name}`\n" if name else "## At the top\n"
    inherited = [base for base in inspect.getmro(kind) if dataclasses.is_dataclass(base)] or [kind]
    told = {key: text for base in reversed(inherited) for key, text in _attributes(base).items()}
    first = (inspect.getdoc(kind) or "").partition("Attributes:")[0].strip()
    if first and kind is not Params:
        yield f"{first}\n"
    yield "| key | default | values | what |"
    yield "|---|---|---|---|"
    for key, hint in fields(kind).items():
        field, section = get_args(hint)[-1], bool(fields(hint))
        default = None if field.is_required() else field.get_default(call_default_factory=True)
        shown = "" if field.is_required() or (section and default is not None) else f"`{_plain(default)}`"
        values = "section" if section else words(hint, quote="`")
        yield f"| `{key}` | {shown} | {_cell(values)} | {_cell(told.get(key, ''))} |"
    yield ""


def _attributes(kind: Any) -> dict[str, str]:
    """Return what the docstring's `Attributes:` say, name -> text."""
    _, _, listed = (inspect.getdoc(kind) or "").partition("Attributes:\n")
    entries = re.findall(r"^ {4}(\w+): (.*(?:\n {8}.*)*)", listed, re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in entries}


def _plain(value: Any) -> str:
    if dataclasses.is_dataclass(value) or isinstance(value, BaseModel):
        return "{}"
    return json.dumps(value, default=str).replace("|", "\\|")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    PAGE.write_text(page())
    sys.exit(0)
