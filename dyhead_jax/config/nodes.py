"""Config nodes: an import path to a class or function, and the options to call it with.

A node is a slotted dataclass with a field `module`, the import path, and a field for each option. The nodes of this
package are written out (ResNetConfig, ATSSConfig, ...). For any other class `make_node` derives a node from the
parameters that the class declares, so a fork's class has its options in config files, on the command line and in
`--help` without a change here:

    config.model.dyhead.spatial = "mine:MySpatial"
    config.model.dyhead.spatial.num_points = 8

Values passed by the parent (`features`, `dtype`, ...) are not options, nor are values that JSON cannot hold.
"""

import dataclasses
import importlib
import inspect
import types
import typing
from collections.abc import Iterable
from functools import cache, partial
from typing import Any, ClassVar

from dyhead_jax.config import import_path
from dyhead_jax.config.errors import ConfigError

OFF = "none"  # in place of an import path: switched off
_PLAIN = (bool, int, float, str)


class Options:
    """Base of the nodes from `make_node`. A node equals another with the same options, and also its import path."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.module == other  # type: ignore[attr-defined]
        return type(other) is type(self) and dataclasses.astuple(self) == dataclasses.astuple(other)  # type: ignore

    __hash__ = None  # type: ignore[assignment]


class Parent:
    """Base of config classes with nodes as fields: an import path assigned to such a field becomes a node.

    NODES: for each of these fields the names of the values that the parent passes to the named class, or the import
    path of a tuple of them.
    """

    __slots__ = ()
    NODES: ClassVar[dict[str, Iterable[str] | str]] = {}

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self.NODES and isinstance(value, str | dict):
            try:
                value = make_node(value, handed_down(type(self), name))
            except ConfigError as error:
                raise ConfigError(f"{type(self).__name__}.{name}: {error}") from error
        object.__setattr__(self, name, value)


def handed_down(parent: type, name: str) -> frozenset[str]:
    """The names of the values that `parent` passes to the class of its node `name`."""
    names = parent.NODES[name]  # type: ignore[attr-defined]
    return frozenset(import_path.load(names) if isinstance(names, str) else names)


def make_node(value: str | dict[str, Any], handed_down: Iterable[str] = ()) -> Any:
    """Makes a node from an import path, or from {"module": path, option: value, ...} as in JSON.

    Raises ConfigError for an unknown option, listing the known ones, and for an import path that does not exist.
    """
    options = {"module": value} if isinstance(value, str) else dict(value)
    path = options.pop("module", None)
    if not isinstance(path, str):
        raise ConfigError(f"{value!r} has no import path 'module'")
    cls = _own_class(path) or _options_class(path, frozenset(handed_down))
    known = [f.name for f in dataclasses.fields(cls) if f.name != "module"]
    for name in options:
        if name in handed_down:
            raise ConfigError(f"{path}: {name} is set by the parent; change it there")
        if name not in known:
            raise ConfigError(f"{path} has no option {name!r}; it has {', '.join(known) or 'none'}")
    return cls(module=path, **options)


def is_node(value: Any) -> bool:
    """Whether `value` is a config node."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "module")


def target_of(node: Any) -> Any:
    """The object that a node names, as a partial if options differ from their defaults; None if the node is off.

    Raises ConfigError if the options do not fit the object.
    """
    if node.module == OFF:
        return None
    target = import_path.load(node.module)
    options = options_of(node)
    takes = import_path.parameters(target)
    changed = {name: value for name, value in options.items() if value != takes[name].default}
    return partial(target, **changed) if changed else target


def build(node: Any, **context: Any) -> Any:
    """Calls the object that a node names with the node's options and those values of `context` that it takes.

    Modules thus take plain values, never the config itself. A node among the options is replaced by its `target_of`.
    Raises ConfigError if the options do not fit the object.
    """
    options = {name: target_of(value) if is_node(value) else value for name, value in options_of(node).items()}
    return import_path.call(partial(import_path.load(node.module), **options), context)


def options_of(node: Any) -> dict[str, Any]:
    """The options of a node by name. Raises ConfigError for one that its class does not take, or requires but lacks."""
    takes = import_path.parameters(import_path.load(node.module))
    options = {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.name != "module"}
    for name, value in options.items():
        if name not in takes:
            raise ConfigError(f"{node.module} does not take {name!r}; it takes {', '.join(takes)}")
        if value is None and takes[name].default is inspect.Parameter.empty:
            raise ConfigError(f"{node.module} needs a value for {name!r}")
    return options


def _own_class(path: str) -> type | None:
    """This package's config class for the class at `path`, if it has one."""
    for cls in vars(importlib.import_module("dyhead_jax.config")).values():
        if isinstance(cls, type) and dataclasses.is_dataclass(cls):
            defaults = {f.name: f.default for f in dataclasses.fields(cls)}
            if "module" in defaults and defaults["module"] == path:
                return cls
    return None


@cache
def _options_class(path: str, handed_down: frozenset[str]) -> type:
    if path == OFF:
        return _dataclass("none", path, [])
    target = import_path.load(path)
    hints = import_path.hints(target)
    fields = []
    for name, parameter in import_path.parameters(target).items():
        default = parameter.default
        if name in handed_down:
            continue
        kind = _field_type(hints.get(name), default)
        if kind is not None:
            default = None if default is inspect.Parameter.empty else default  # None: must be set
            fields.append((name, kind, str(default) if isinstance(default, str) else default))
    return _dataclass(import_path.name_of(target), path, fields)


def _dataclass(name: str, path: str, fields: list[tuple[str, Any, Any]]) -> type:
    made = [("module", str, dataclasses.field(default=path))]
    made += [(n, kind, dataclasses.field(default=default)) for n, kind, default in fields]
    return dataclasses.make_dataclass(name, made, bases=(Options,), kw_only=True, slots=True, eq=False)


def _field_type(hint: Any, default: Any) -> Any:
    """The type as which the command line parses an option, or None if a config cannot hold it."""
    if default is not inspect.Parameter.empty and not is_plain(default):
        return None
    if isinstance(hint, type) and issubclass(hint, str):
        return str  # also a StrEnum, whose values `validate` checks
    if _is_plain_type(hint):
        return hint
    if default is None or default is inspect.Parameter.empty:
        return None
    return type(default)


def _is_plain_type(hint: Any) -> bool:
    if hint in _PLAIN:
        return True
    arguments = [a for a in typing.get_args(hint) if a not in (type(None), Ellipsis)]
    if typing.get_origin(hint) is tuple:
        return bool(arguments) and all(map(_is_plain_type, arguments))
    optional = typing.get_origin(hint) in (typing.Union, types.UnionType)
    return optional and len(arguments) == 1 and _is_plain_type(arguments[0])


def is_plain(value: Any) -> bool:
    """Whether a config can hold `value`: a number, a string, None, or a tuple or list of these."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, _PLAIN)
