"""Import paths as configuration: `load("package.module:Name")`.

A variant is a file of its own and one line of a config. There is no registry to enter and nothing to decorate.
"""

import dataclasses
import importlib
import inspect
import typing
from functools import partial
from typing import Any

from dyhead_jax.config.errors import ConfigError

_OF_LINEN = ("parent", "name")  # fields that Flax adds to every module


def load(path: str) -> Any:
    """The object that `path` ("package.module:Name") names.

    Raises ConfigError, with the names that the module does have, when the form is wrong, the module cannot be imported
    or the name is missing.
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
    """What a class, a function or a `functools.partial` of one takes by keyword, by name.

    Of a Linen module these are its fields, without those that Flax adds. A partial's own keywords are its defaults.
    """
    if isinstance(target, partial):
        found = parameters(target.func)
        return {
            name: parameter.replace(default=target.keywords[name]) if name in target.keywords else parameter
            for name, parameter in found.items()
        }
    signature = inspect.signature(target).parameters.values()
    named = [p for p in signature if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    return {p.name: p for p in named if not (dataclasses.is_dataclass(target) and p.name in _OF_LINEN)}


def call(target: Any, offered: dict[str, Any]) -> Any:
    """Calls `target` with what it takes of `offered`; what a partial was given stays."""
    fixed = target.keywords if isinstance(target, partial) else {}
    return target(**{name: offered[name] for name in parameters(target) if name in offered and name not in fixed})


def hints(target: Any) -> dict[str, Any]:
    """The declared types of what a class, a function or a partial of one takes, as far as they can be told."""
    while isinstance(target, partial):
        target = target.func
    try:
        return typing.get_type_hints(target)
    except (NameError, TypeError):  # names that only a type checker sees
        return {}


def name_of(target: Any) -> str:
    """What to call a class, a function or a partial of one in a message."""
    while isinstance(target, partial):
        target = target.func
    return getattr(target, "__name__", type(target).__name__)
