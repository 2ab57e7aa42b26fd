"""Which modules a stored config may name: a config.json says what to import and to call, and may come from anybody.

It may name the parts of this package. Modules outside of it are imported only where the caller names their package,
since to import a module is to run it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from dyhead_jax.config import import_path, nodes
from dyhead_jax.config.errors import ConfigError

OWN = "dyhead_jax"


def check(tree: Any, trust: Sequence[str], where: str) -> None:
    """Raises ConfigError, before anything is imported or called, where the JSON of a config names a module outside of
    this package and the packages `trust`, or anything of this package that is neither a config class nor a part of a
    detector nor a source of data. where: the file, for the message.
    """
    for path in _import_paths(tree):
        package = _package(path)
        if path == nodes.OFF or package in trust:
            continue
        if package != OWN:
            raise ConfigError(
                f"{where} names {path[:100]!r}, of the package {package[:100]!r}; if you know it, --trust"
                f" {package[:100]} allows it (trust=[...] in Python)"
            )
        try:
            target = import_path.load(path)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from error
        if not isinstance(target, type) or not _is_part(target):
            raise ConfigError(f"{where} names {path!r}, which is no part of a detector")


def packages(tree: Any) -> tuple[str, ...]:
    """The packages outside of this one that the JSON of a config names."""
    return tuple(sorted({_package(path) for path in _import_paths(tree)} - {OWN, nodes.OFF}))


def _package(path: str) -> str:
    return path.partition(":")[0].partition(".")[0]


def _is_part(target: type) -> bool:
    from flax import linen as nn

    room = f"{target.__module__}.".partition(".")[2]
    if not target.__module__.startswith(f"{OWN}."):
        return False
    return room.startswith(("config.", "data.")) or issubclass(target, nn.Module)  # a source is made only for data


def _import_paths(tree: Any) -> Iterator[str]:
    """Every string that is imported when the config is read or used."""
    if isinstance(tree, dict):
        imported = {"class", "module"}.union(*(parent.NODES for parent in nodes.Parent.__subclasses__()))
        for key, value in tree.items():
            if key in imported and isinstance(value, str):
                yield value
            else:
                yield from _import_paths(value)
    elif isinstance(tree, list | tuple):
        for value in tree:
            yield from _import_paths(value)
