"""A config as JSON, and back."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dyhead_jax.config import import_path, nodes
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.experiment import Config
from dyhead_jax.config.trust import OWN
from dyhead_jax.config.trust import check as check_paths
from dyhead_jax.config.trust import packages as packages_of
from dyhead_jax.config.value_types import wrong_type
from dyhead_jax.files import parse_json

# Old values of fields that were renamed, so that older config.json files can still be read.
RENAMED = {
    ("implementation", "taps"): "gather",
    ("implementation", "hat"): "dense",
    ("implementation", "auto_cpu"): "auto",
    ("implementation", "auto_gpu"): "auto",
    ("implementation", "auto_tpu"): "auto",
}


def to_json(config: Config) -> str:
    """The config as JSON; `from_json` restores an equal config.

    A node is stored with the name of its class, or, if `nodes.make_node` made it, with its import path alone.
    Raises ConfigError, which names the field, for what cannot be read back: a class defined in a config file, or a
    value that is not a number, a string or a tuple of these.
    """
    return json.dumps(_encode(config, "config"), indent=2)


def from_json(text: str | bytes, where: str = "config.json", *, trust: Sequence[str] = ()) -> Config:
    """Restores a config from `to_json`. trust: packages outside of this one whose classes it may name (see `trust`).

    Raises ConfigError, which begins with `where`, for other JSON, unknown fields, values of another type, unknown
    classes, and classes of other packages.
    """
    return from_tree(parse(text, where), where, trust=trust)


def from_tree(tree: Any, where: str, *, trust: Sequence[str] = ()) -> Config:
    """`from_json` from what JSON was parsed to."""
    try:
        check_paths(tree, trust, where)
        config = _decode(tree, where)
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{where} does not hold a config")
    return config


def parse(text: str | bytes, where: str) -> Any:
    """What JSON holds. Raises ConfigError, which begins with `where`, for anything else, for a key that an
    object has twice, for nesting that is too deep and for numbers that are too long."""
    try:
        return parse_json(text.decode() if isinstance(text, bytes) else text)
    except UnicodeDecodeError as error:
        raise ConfigError(f"{where} is not JSON: it is not UTF-8") from error
    except ValueError as error:
        raise ConfigError(f"{where} is not JSON: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ConfigError(f"{where} is nested too deeply") from error


def load_file(path: str | Path, *, trust: Sequence[str] = ()) -> Config:
    """Reads the `config.json` of a workdir. trust: as in `from_json`. Raises ConfigError if it is missing or broken."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is its folder the workdir of a run?")
    return from_json(path.read_bytes(), str(path), trust=trust)


def packages(config: Config) -> tuple[str, ...]:
    """The packages outside of this one whose classes a config names."""
    return packages_of(json.loads(to_json(config)))


def _encode(value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(value):
        if not nodes.is_plain(value):
            raise ConfigError(
                f"{name} is {value!r}, a {type(value).__name__}; a config holds numbers, strings and tuples of these"
            )
        return value
    fields = {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}") for f in dataclasses.fields(value)}
    return fields if isinstance(value, nodes.Options) else {"class": _path_of_class(type(value), name), **fields}


def _decode(tree: Any, where: str) -> Any:
    if isinstance(tree, list):
        return tuple(_decode(v, where) for v in tree)
    if not isinstance(tree, dict):
        return tree
    if "class" not in tree:  # the options of a node, which its parent makes
        return {k: _decode(v, where) for k, v in tree.items()}
    try:
        cls = import_path.load(str(tree["class"])[:200])
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error
    own = getattr(cls, "__module__", "").startswith(f"{__package__}.")
    named_own = str(tree["class"]).startswith(f"{OWN}.")  # where modules are dataclasses too
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)) or named_own != own:
        raise ConfigError(f"{where}: {tree['class']!r} is not a config class")
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - names - {"class"})
    if unknown:
        raise ConfigError(f"{where}: {cls.__name__} has no field {', '.join(unknown)}")
    values = {k: _renamed(k, _decode(v, where)) for k, v in tree.items() if k != "class"}
    try:
        made = cls(**values)
    except (ConfigError, TypeError) as error:
        raise ConfigError(f"{where}: {error}") from error
    for name, part in ((f"{cls.__name__}.", made), *((f"{cls.__name__}.{k}.", v) for k, v in _options(made))):
        if wrong := wrong_type(part):
            raise ConfigError(f"{where}: {name}{wrong}")
    return made


def _options(part: Any) -> list[tuple[str, Any]]:
    """The nodes among the fields of a config object that `nodes.make_node` made."""
    fields = [(f.name, getattr(part, f.name)) for f in dataclasses.fields(part)]
    return [(name, value) for name, value in fields if isinstance(value, nodes.Options)]


def _renamed(field: str, value: Any) -> Any:
    return RENAMED[field, value] if isinstance(value, str) and (field, value) in RENAMED else value


def _path_of_class(cls: type, name: str) -> str:
    """The import path of a class; classes of this package have the package's own path, so they may move within it."""
    own = cls.__module__.startswith(f"{__package__}.")
    path = f"{__package__ if own else cls.__module__}:{cls.__name__}"
    try:
        imported = import_path.load(path)
    except ConfigError:
        imported = None
    if imported is not cls:
        raise ConfigError(
            f"{name} is a {cls.__name__}, which cannot be imported as {path}; define it in a module, not in the config"
            " file, because evaluation and resumption import it"
        )
    return path
