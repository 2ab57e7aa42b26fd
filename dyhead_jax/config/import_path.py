"""Import paths as configuration: `load("package.module:Name")`.

A variant is its own file and one line in a config: no registry, no decorator.
"""

import dataclasses
import importlib
import inspect
import typing
from functools import partial
from typing import Any

from dyhead_jax.config.errors import ConfigError

_OF_LINEN = ("parent", "name")  # fields that Flax adds to each module


def load(path: str) -> Any:
    """The object at `path`, "package.module:Name".

    Raises ConfigError if `path` is malformed, the module does not exist, or it lacks the name; the message then lists
    the names that it has.
    """
    module_name, separator, name = path.partition(":")
    if not separator or not module_name or not name:
        raise ConfigError(f"import path {path!r} is not of the form 'package.module:Name'")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ConfigError(f"import path {path!r}: no module named {error.name!r}") from error
    if not hasattr(module, name):
        public = sorted(n for n in vars(module) if not n.startswith("_"))
        raise ConfigError(f"import path {path!r}: {module_name} has no {name!r}; it has {', '.join(public)}")
    return getattr(module, name)


def parameters(target: Any) -> dict[str, inspect.Parameter]:
    """The keyword parameters, by name, of a class, a function or a `functools.partial` of one.

    For a Linen module these are its fields, without those that Flax adds. The keywords of a partial become defaults.
    Raises ConfigError for what cannot be called, or does not say how.
    """
    if isinstance(target, partial):
        inner = parameters(target.func)
        return {
            name: parameter.replace(default=target.keywords[name]) if name in target.keywords else parameter
            for name, parameter in inner.items()
        }
    try:
        signature = inspect.signature(target).parameters.values()
    except (TypeError, ValueError) as error:  # ValueError: of some that are written in C
        raise ConfigError(f"{repr(target)[:80]} is not a class or function with named parameters") from error
    named = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p for p in named if not (dataclasses.is_dataclass(target) and p.name in _OF_LINEN)}


def call(target: Any, offered: dict[str, Any]) -> Any:
    """Calls `target` with those of the `offered` arguments that it takes; keywords of a partial have precedence."""
    fixed = target.keywords if isinstance(target, partial) else {}
    return target(**{name: offered[name] for name in parameters(target) if name in offered and name not in fixed})


def hints(target: Any) -> dict[str, Any]:
    """The declared parameter types of a class, a function or a partial of one; {} if they cannot be resolved."""
    while isinstance(target, partial):
        target = target.func
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):  # names imported for type checkers only
        return {}


def name_of(target: Any) -> str:
    """The name of a class, a function or a partial of one, for messages."""
    while isinstance(target, partial):
        target = target.func
    return getattr(target, "__name__", type(target).__name__)
