"""What a step says when the user can mend it."""

from __future__ import annotations

import sys

from segmodels.errors import UserError, sentence


class StepError(UserError):
    """One sentence that names the file or key and says what to do; shown without a traceback.

    Attributes:
        code: Exit status of the process.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code


def complain(error: Exception) -> int:
    """Print `error: <sentence>` and give the exit status; an error that the user cannot mend is raised again.

    What the user can mend: bad settings, bad data, an unknown architecture, a full disk.
    """
    if not isinstance(error, UserError | OSError):
        raise error
    print(f"error: {sentence(error)}", file=sys.stderr, flush=True)
    return error.code if isinstance(error, StepError) else 1
