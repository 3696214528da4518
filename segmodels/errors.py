"""What is told to a person in one sentence, and how a sentence shows what somebody gave."""

from __future__ import annotations

import difflib
import io
import sys
from collections.abc import Iterable, Mapping
from typing import Any

SHOWN = 80


class UserError(Exception):
    """What the user can mend; the message is one sentence that names the file or key and says what to do."""


class UnknownModelError(UserError, ValueError):
    """No architecture, backbone or keyword has this name; the message proposes the nearest one."""


def sentence(error: BaseException) -> str:
    """Return the sentence of an error: of the system's errors the file and the reason."""
    if isinstance(error, OSError) and error.filename:
        return f"{printable(error.filename)}: {error.strerror}"
    return printable(error)


def brief(error: BaseException) -> str:
    """Return the kind of an error and the beginning of what it says, for the brackets of a sentence."""
    text = printable(error).splitlines()
    return f"{type(error).__name__}: {text[0][:SHOWN]}" if text else type(error).__name__


def printable(text: object) -> str:
    """Return text that every terminal and file takes: bytes of a name that are no UTF-8 are shown as `\\xff`."""
    return str(text).encode("utf-8", "backslashreplace").decode("utf-8")


def printable_output() -> None:
    """Have this process print any text, also names of files that are no UTF-8 and what its terminal cannot show."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def shown(value: Any) -> str:
    """Return a value for a message, in at most a line: a mapping or a list by its size alone.

    The text of a nested value can be exponentially longer than the file it came from (YAML's aliases).
    """
    if isinstance(value, Mapping):
        return f"a mapping of {len(value)} keys"
    if isinstance(value, list | tuple | set | frozenset):
        simple = len(value) <= 6 and all(v is None or isinstance(v, bool | int | float | str) for v in value)
        return f"[{', '.join(shown(v) for v in value)}]" if simple else f"a list of {len(value)} entries"
    if isinstance(value, int) and abs(value) >= 10**SHOWN:
        return "a number of more than 80 digits"
    text = repr(value[: SHOWN + 1] if isinstance(value, str | bytes) else value)
    return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"


def nearest(name: str, known: Iterable[Any]) -> str:
    """`; did you mean 'enet'?`, or the list of what is known where nothing is near."""
    names = [str(k) for k in known]
    close = difflib.get_close_matches(name[:SHOWN], names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; known are {', '.join(sorted(names))}" if names else ""
