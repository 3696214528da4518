"""What a step says when the user can mend it."""


class StepError(Exception):
    """One sentence that names the file or key and says what to do; shown without a traceback.

    Attributes:
        code: Exit status of the process.
    """

    def __init__(self, message: str, code: int = 1) -> None:
        super().__init__(message)
        self.code = code
