"""Config nodes: what is built from an import path, and with which options.

A node is a slotted dataclass with a field `module`, the import path, and a field for each option. This package writes
its own out (ResNetConfig, ATSSConfig, ...). For any other class `make_node` makes one from what that class declares, so
that a fork's class has its options in config files, on the command line and in `--help` without a line of ours:

    config.model.dyhead.spatial = "mine:MySpatial"
    config.model.dyhead.spatial.num_points = 8

Not among the options is what the parent hands down (`features`, `dtype`, ...), nor what JSON cannot hold.
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

OFF = "none"  # in the place of an import path: switched off
_PLAIN = (bool, int, float, str)


class Options:
    """Base of the nodes that `make_node` makes. One equals another with the same options, and its import path."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str):
            return self.module == other  # type: ignore[attr-defined]
        return type(other) is type(self) and dataclasses.astuple(self) == dataclasses.astuple(other)  # type: ignore

    __hash__ = None  # type: ignore[assignment]


class Parent:
    """Base of the config classes that have nodes for fields: an import path that is put there becomes its node.

    NODES: by field what the parent hands down to the class that is named there, or the import path of those names.
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
    """What `parent` hands down to the class of its node `name`."""
    names = parent.NODES[name]  # type: ignore[attr-defined]
    return frozenset(import_path.load(names) if isinstance(names, str) else names)


def make_node(value: str | dict[str, Any], handed_down: Iterable[str] = ()) -> Any:
    """The node of an import path, or of {"module": path, option: value, ...}, as JSON has it.

    Raises ConfigError, with the options that there are, for an unknown one, and when the path leads nowhere.
    """
    options = {"module": value} if isinstance(value, str) else dict(value)
    path = options.pop("module", None)
    if not isinstance(path, str):
        raise ConfigError(f"{value!r} has no import path 'module'")
    cls = _own_class(path) or _options_class(path, frozenset(handed_down))
    known = [f.name for f in dataclasses.fields(cls) if f.name != "module"]
    for name in options:
        if name in handed_down:
            raise ConfigError(f"{path}: {name} is handed down; set it on the parent")
        if name not in known:
            raise ConfigError(f"{path} has no option {name!r}; it has {', '.join(known) or 'none'}")
    return cls(module=path, **options)


def is_node(value: Any) -> bool:
    """Whether `value` is a config node."""
    return dataclasses.is_dataclass(value) and not isinstance(value, type) and hasattr(value, "module")


def target_of(node: Any) -> Any:
    """What a node names, with its options as a partial where they are not the defaults; None where it is off.

    Raises ConfigError where the two do not fit.
    """
    if node.module == OFF:
        return None
    target = import_path.load(node.module)
    options = options_of(node)
    takes = import_path.parameters(target)
    changed = {name: value for name, value in options.items() if value != takes[name].default}
    return partial(target, **changed) if changed else target


def build(node: Any, **context: Any) -> Any:
    """Calls what a node names with the node's options and with what it takes of `context`.

    Modules thus take plain values, never the config itself. A node among the options becomes what `target_of` gives.
    Raises ConfigError where the two do not fit.
    """
    options = {name: target_of(value) if is_node(value) else value for name, value in options_of(node).items()}
    return import_path.call(partial(import_path.load(node.module), **options), context)


def options_of(node: Any) -> dict[str, Any]:
    """The options of a node by name. Raises ConfigError for one that its class does not take, or needs and has not."""
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
            default = None if default is inspect.Parameter.empty else default  # None: to be set
            fields.append((name, kind, str(default) if isinstance(default, str) else default))
    return _dataclass(import_path.name_of(target), path, fields)


def _dataclass(name: str, path: str, fields: list[tuple[str, Any, Any]]) -> type:
    made = [("module", str, dataclasses.field(default=path))]
    made += [(n, kind, dataclasses.field(default=default)) for n, kind, default in fields]
    return dataclasses.make_dataclass(name, made, bases=(Options,), kw_only=True, slots=True, eq=False)


def _field_type(hint: Any, default: Any) -> Any:
    """The type that the command line parses for an option, or None for one that a config cannot hold."""
    if default is not inspect.Parameter.empty and not is_plain(default):
        return None
    if isinstance(hint, type) and issubclass(hint, str):
        return str  # also for a StrEnum, whose words `validate` knows
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
    """Whether a config can hold `value`: a number, text, None, or a tuple or list of such."""
    if isinstance(value, tuple | list):
        return all(map(is_plain, value))
    return value is None or isinstance(value, _PLAIN)
