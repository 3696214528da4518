"""`KEY=VALUE` from a command line to typed settings, and what is wrong with settings in one sentence with the key."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

from pydantic import TypeAdapter, ValidationError

from segmodels.errors import SHOWN, UserError, nearest, shown

T = TypeVar("T")
_WORDS = {"true": True, "false": False, "null": None, "none": None}
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
_NOUNS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_LIMITS = {
    "ge": "of at least", "gt": "above", "le": "of at most", "lt": "below",
    "min_length": "with a length of at least",
}  # fmt: skip
_MISSING = object()


class SettingsError(UserError, ValueError):
    """A setting does not exist, or its value is of another type or out of its range."""


def parse(pairs: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1", "c=x"]` to `{"a": {"b": 1}, "c": "x"}`.

    A value is read as JSON; what is no JSON is text, but for true, false, null and none in any case.

    Raises:
        SettingsError: There is no `=`, or a key is given both a value and keys below it.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        path, sign, text = pair.partition("=")
        *sections, key = path.strip().split(".")
        if not sign or not key or not all(sections):
            raise SettingsError(f"'{pair}': give KEY=VALUE, for example lr=0.001")
        place = settings
        for section in sections:
            place = place.setdefault(section, {})
            if not isinstance(place, dict):
                raise SettingsError(f"'{pair}': {section} has a value of its own already")
        place[key] = _value(text.strip())
    return settings


def build(kind: type[T], values: Mapping[str, Any], source: str = "") -> T:
    """Return settings from plain values, as JSON and YAML have them.

    Args:
        kind: The record of settings.
        values: Its fields; those that are missing keep their defaults.
        source: Stands before the message, e.g. the name of the file.

    Raises:
        SettingsError: A key is unknown, or a value is of another type or out of its range.
    """
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise SettingsError(f"{source}: " * bool(source) + explain(error, kind, values)) from None


def explain(error: ValidationError, kind: Any, values: Any) -> str:
    """Return one sentence: the dotted key, what was given, and what it must be; for an unknown key the nearest name.

    Of several problems the first is told, an unknown key before all others. A validator's own message begins with what
    stands below the key where it is of a whole section (`stride is set without window`).

    Args:
        error: What pydantic found.
        kind: What the values were to become.
        values: The values as they were given.
    """
    problem = min(error.errors(), key=lambda each: each["type"] not in _UNKNOWN)
    place = problem["loc"]
    if problem["type"] in _UNKNOWN:
        path, section, _ = _follow(place[:-1], kind, values)
        name = str(place[-1])
        return f"unknown setting '{'.'.join([*path, name[:SHOWN]])}'{nearest(name, fields(section))}"
    if place[-1:] == ("[key]",):
        path, section, _ = _follow(place[:-2], kind, values)
        return f"{'.'.join(path)} has the key {_given(place[-2])}; a key must be {words(get_args(_bare(section))[0])}"
    path, wanted, value = _follow(place, kind, values)
    key = ".".join(path)
    if problem["type"] == "value_error":
        message = str(problem["ctx"]["error"])
        whole = get_origin(_bare(wanted)) is dict or fields(wanted)
        return ".".join(filter(None, (key, message))) if whole else f"{key} is {_given(value)}; {message}"
    expected = "a finite number" if problem["type"] == "finite_number" else words(wanted)
    return f"{key} is {_given(value)}; it must be {expected}"


def words(kind: Any, quote: str = "", limits: Sequence[Any] = ()) -> str:
    """Return what a value of an annotation looks like: `a whole number of at least 1 or null`.

    Args:
        kind: The annotation.
        quote: Stands around literal values.
        limits: Those of pydantic's constraints that lie outside the annotation.
    """
    origin, args = get_origin(kind), get_args(kind)
    if origin is Annotated:
        inner = [limit for each in args[1:] for limit in getattr(each, "metadata", [each])]
        return words(args[0], quote, [*limits, *inner])
    if origin in (Union, types.UnionType):
        return " or ".join(words(each, quote, limits) for each in args)
    if origin is Literal:
        return "one of " * (len(args) > 1) + ", ".join(f"{quote}{each}{quote}" for each in args)
    if kind is types.NoneType:
        return "null"
    noun = _NOUNS.get(kind, "a mapping")
    if origin is tuple:
        several = [words(args[0], quote), "…"] if args[-1] is Ellipsis else [words(each, quote) for each in args]
        noun = f"[{', '.join(several)}]"
    elif origin is dict and args[1] is not Any and not fields(args[1]):
        noun = f"a mapping {{{words(args[0], quote)}: {words(args[1], quote)}, …}}"
    told = [f"{word} {value}" for name, word in _LIMITS.items() for value in _limit(limits, name)]
    told += [f"that matches {quote}{value}{quote}" for value in _limit(limits, "pattern")]
    return f"{noun} {' and '.join(told)}".rstrip()


def fields(kind: Any) -> dict[str, Any]:
    """Return the keys of a section and their annotations; what is no section has none."""
    known = getattr(_bare(kind), "__pydantic_fields__", {})
    return {field.alias or name: Annotated[field.annotation, field] for name, field in known.items()}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise SettingsError(f"'{text[:20]}…' is nested too deep for a setting") from None
    except ValueError:
        return _WORDS.get(text.lower(), text)


def _given(value: Any) -> str:
    """Return a value as JSON has it, unless it is too large for a message."""
    if value is _MISSING:
        return "missing"
    if value is None or isinstance(value, bool | str):
        text = json.dumps(value[: SHOWN + 1] if isinstance(value, str) else value, ensure_ascii=False)
        return text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
    return shown(value)


def _follow(place: Sequence[int | str], kind: Any, value: Any) -> tuple[list[str], Any, Any]:
    """Return the keys, the annotation and the value at pydantic's place, or as near to it as there are keys.

    A pair of numbers is told as a whole, and so is a value of several kinds, where pydantic names each kind.
    """
    path: list[str] = []
    for part in place:
        bare = _bare(kind)
        args = get_args(bare)
        if get_origin(bare) is dict:
            kind = args[1]
        elif get_origin(bare) is tuple and args[-1] is Ellipsis:
            kind = args[0]
        elif part in (known := fields(bare)):
            kind = known[str(part)]
        else:
            break
        path.append(str(part)[:SHOWN])
        inside = isinstance(value, list | tuple) or (isinstance(value, Mapping) and part in value)
        value = value[part] if inside else _MISSING
    return path, kind, value


def _bare(kind: Any) -> Any:
    """Return an annotation without its limits, and without null."""
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if get_origin(kind) in (Union, types.UnionType):
        rest = [each for each in get_args(kind) if each is not types.NoneType]
        return _bare(rest[0]) if len(rest) == 1 else kind
    return kind


def _limit(limits: Sequence[Any], name: str) -> list[Any]:
    return [value for limit in limits if (value := getattr(limit, name, None)) is not None]
