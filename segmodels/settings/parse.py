"""`KEY=VALUE` from a command line to typed settings: dotted keys, JSON values, the nearest name for a wrong key."""

from __future__ import annotations

import dataclasses
import json
import types
from collections.abc import Iterable, Mapping
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from segmodels.errors import SHOWN, UserError, nearest, shown

T = TypeVar("T")
_WORDS = {"true": True, "false": False, "null": None, "none": None}


class OverrideError(UserError, ValueError):
    """A `KEY=VALUE` names no setting, or its value is of another type."""


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` to `{"a": {"b": 1}, "c": "x"}`.

    A value is read as JSON; what is no JSON is text, but for true, false, null and none in any case.

    Raises:
        OverrideError: There is no `=`, or a key is given both a value and keys below it.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        path, sign, text = pair.partition("=")
        *sections, key = path.strip().split(".")
        if not sign or not key or not all(sections):
            raise OverrideError(f"'{pair}': give KEY=VALUE, for example lr=0.001")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise OverrideError(f"'{pair}': {section} has a value of its own already")
        place[key] = _value(text.strip())
    return settings


def build(kind: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Return a settings dataclass from plain values.

    Args:
        kind: The dataclass.
        values: Its fields; those that are missing keep their defaults.
        path: Stands before the keys in messages, e.g. `augment.`.

    Raises:
        OverrideError: A key is unknown, a value is of another type, or the dataclass refuses it.
    """
    hints = get_type_hints(kind)
    for key in values:
        if key not in hints:
            raise OverrideError(f"unknown setting '{path}{key}'{nearest(key, hints)}")
    try:
        return kind(**{key: _fit(value, hints[key], path + key) for key, value in values.items()})
    except OverrideError:
        raise
    except (TypeError, ValueError) as error:
        raise OverrideError(str(error)) from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise OverrideError(f"'{text[:20]}…' is nested too deep for a setting") from None
    except ValueError:
        return _WORDS.get(text.lower(), text)


def _fit(value: Any, kind: Any, path: str) -> Any:
    """Return the value as the annotation wants it: lists as tuples, whole numbers as floats."""
    fitted = _try(value, kind, path)
    if fitted is _MISFIT:
        raise OverrideError(f"{path} is {_given(value)}; it must be {_words(kind)}")
    return fitted


def _given(value: Any) -> str:
    """Return a value as JSON has it, unless it is too large for a message."""
    return shown(value) if isinstance(value, Mapping | list | tuple) else json.dumps(value, default=str)[:SHOWN]


_MISFIT = object()


def _try(value: Any, kind: Any, path: str) -> Any:
    origin, args = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return build(kind, value, f"{path}.") if isinstance(value, Mapping) else _MISFIT
    if origin is Literal:
        # JSON reads precision=32 as a number, where the setting is the text "32".
        return next((a for a in args if value == a or str(value) == a), _MISFIT)
    if origin in (Union, types.UnionType):
        tried = (_try(value, arg, path) for arg in args)
        return next((t for t in tried if t is not _MISFIT), _MISFIT)
    if origin is tuple:
        return _tuple(value, args, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            return _MISFIT
        return {_fit(k, args[0], path): _fit(v, args[1], f"{path}.{k}") for k, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind is types.NoneType:
        return None if value is None else _MISFIT
    exact = isinstance(value, kind) and not (isinstance(value, bool) and kind is not bool)
    return value if exact else _MISFIT


def _tuple(value: Any, args: tuple[Any, ...], path: str) -> Any:
    if not isinstance(value, list | tuple):
        return _MISFIT
    kinds = [args[0]] * len(value) if args[-1] is Ellipsis else list(args)
    if len(kinds) != len(value):
        return _MISFIT
    fitted = tuple(_try(v, k, path) for v, k in zip(value, kinds, strict=True))
    return _MISFIT if _MISFIT in fitted else fitted


def _words(kind: Any) -> str:
    """Return what a value of the annotation looks like, for a message."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin in (Union, types.UnionType):
        return " or ".join(_words(a) for a in args)
    if origin is tuple:
        several = [_words(args[0]), "…"] if args[-1] is Ellipsis else [_words(a) for a in args]
        return f"[{', '.join(several)}]"
    if origin is dict or dataclasses.is_dataclass(kind):
        return "a mapping"
    return {bool: "true or false", int: "a whole number", float: "a number", str: "text", types.NoneType: "null"}[kind]
