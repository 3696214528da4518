"""What a step says when the user can mend it."""

from __future__ import annotations

import sys


class StepError(Exception):
    """One sentence that names the file or key and says what to do; shown without a traceback.

    Attributes:
        code: Exit status of the process.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def complain(error: Exception) -> int:
    """Prints `error: <sentence>` and gives the exit status; an error that the user cannot mend is raised again."""
    if not _is_users(error):
        raise error
    print(f"error: {_sentence(error)}", file=sys.stderr, flush=True)
    return error.code if isinstance(error, StepError) else 1


def _is_users(error: Exception) -> bool:
    """Whether the user can mend it: bad settings, bad data, an unknown architecture, a full disk."""
    if isinstance(error, StepError | OSError):
        return True
    from components.params import ParamsError
    from segmodels.data.dataset import DatasetError

    if isinstance(error, ParamsError | DatasetError):
        return True
    # Only a step that built a model can have failed to; do not import torch to find out.
    registry = sys.modules.get("segmodels.registry")
    return registry is not None and isinstance(error, registry.UnknownModelError)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
