"""What settings check when they are made."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any


def check(good: bool, message: str) -> None:
    """Refuse a setting.

    Raises:
        ValueError: It is not good; has the message.
    """
    if not good:
        raise ValueError(message)


def check_finite(settings: Any, section: str) -> None:
    """Refuse numbers that are none, wherever they stand: YAML writes them as `.nan` and `.inf`.

    Raises:
        ValueError: A value is not finite.
    """

    def walk(value: Any, key: str) -> None:
        if isinstance(value, float):
            check(math.isfinite(value), f"{key} is {value}; give a finite number")
        elif isinstance(value, Mapping):
            for name, inner in value.items():
                walk(inner, f"{key}.{name}")
        elif isinstance(value, list | tuple):
            for inner in value:
                walk(inner, key)

    for entry in dataclasses.fields(settings):
        walk(getattr(settings, entry.name), f"{section}.{entry.name}")


def make_tuples(settings: Any, *names: str) -> None:
    """Make tuples of lists: JSON and YAML have these where settings have tuples."""
    for name in names:
        value = getattr(settings, name)
        if isinstance(value, list):
            object.__setattr__(settings, name, tuple(value))
