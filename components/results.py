"""What steps hand to each other as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from components.errors import StepError
from segmodels.files import ContentError
from segmodels.files import read_json as read_json_file


def read_json(path: Path, step: str) -> dict[str, Any]:
    """Return the JSON object that a step wrote.

    Raises:
        StepError: The file is missing or holds something else.
    """
    try:
        content = read_json_file(path)
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; `python -m components {step}` writes it") from None
    except ContentError as error:
        raise StepError(f"{error}; run `{step}` again") from None
    if not isinstance(content, dict):
        raise StepError(f"{path}: not a JSON object; run `{step}` again")
    return content
