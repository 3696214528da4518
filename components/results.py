"""What steps hand to each other as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from components.errors import StepError


def read_json(path: Path, step: str) -> dict[str, Any]:
    """The JSON object that a step wrote.

    Raises:
        StepError: The file is missing or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise StepError(f"{path}: no such file; `python -m components {step}` writes it") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise StepError(f"{path}: not JSON ({error}); run `{step}` again") from None
    if not isinstance(content, dict):
        raise StepError(f"{path}: not a JSON object; run `{step}` again")
    return content
