"""The task's own words among what its container prints: kfp and its launcher speak, too."""

from __future__ import annotations

import re

# A line of Google's logging library by which the launcher says what it does; its warnings and errors are kept.
_LAUNCHER = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d+ +\d+ \S+\.go:\d+\]")


class Words:
    """Tells lines of a task from those of kfp; it is asked line by line."""

    def __init__(self) -> None:
        self._skips = False

    def has(self, line: str) -> bool:
        """Tell whether the line is the task's own."""
        if self._skips:  # the JSON of the task's input, over many lines
            self._skips = line != "}"
            return False
        if line.startswith("[KFP Executor"):
            self._skips = line.endswith("Got executor_input:")
            return False
        return bool(line.strip()) and not _LAUNCHER.match(line)
