"""Whether a value has the type that a field declares, as both a command line and a config.json may give any."""

import dataclasses
import types
import typing
from functools import cache
from typing import Any

from dyhead_jax.config import nodes


def wrong_type(part: Any) -> str | None:
    """The first field of a config object whose value is not of the declared type, and what it must be, as a line that
    begins with the field's name; None if there is none.

    Lists count as tuples, whole numbers as any, and 3.0 as whole. None may stand for an option without a default.
    """
    hints = _hints(type(part))
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        unset = value is None and isinstance(part, nodes.Options)
        if unset or _fits(hints[field.name], value):
            continue
        example = f", such as {field.default!r}" if isinstance(field.default, tuple) and field.default else ""
        return f"{field.name} is {_short(value)}; it must be {_words(hints[field.name])}{example}"
    return None


@cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _fits(hint: Any, value: Any) -> bool:
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple | list) and _fits_tuple(typing.get_args(hint), value)
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return any(_fits(part, value) for part in typing.get_args(hint))
    if hint is type(None):
        return value is None
    if hint in (int, float):
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and (hint is float or isinstance(value, int) or value.is_integer())
    if hint in (bool, str) or dataclasses.is_dataclass(hint):
        return isinstance(value, typing.cast(type, hint))
    return True


def _fits_tuple(parts: tuple[Any, ...], value: Any) -> bool:
    if len(parts) == 2 and parts[1] is Ellipsis:
        return all(_fits(parts[0], item) for item in value)
    return len(parts) == len(value) and all(_fits(part, item) for part, item in zip(parts, value, strict=True))


def _words(hint: Any) -> str:
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    if hint in words:
        return words[hint]
    parts = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:
        if len(parts) == 2 and parts[1] is Ellipsis:
            return f"a row, each of them {_words(parts[0])}"
        return f"({', '.join(map(_words, parts))})"
    if parts:
        return " or ".join(_words(part) for part in parts if part is not type(None))
    return f"a {getattr(hint, '__name__', hint)}"


def _short(value: Any) -> str:
    """At most 60 characters; of a nested value only the kind, since it may be endless to print."""
    flat = isinstance(value, tuple | list) and not any(isinstance(item, tuple | list | dict) for item in value[:10])
    if isinstance(value, str | int | float | None) or flat:
        try:
            return repr(value[:10] if flat else value)[:60]  # type: ignore[index]
        except ValueError:  # a whole number of thousands of digits
            pass
    return f"a {type(value).__name__}"
