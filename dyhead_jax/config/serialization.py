"""A config as JSON, and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dyhead_jax.config import import_path, nodes
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.experiment import Config

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


def from_json(text: str, where: str = "config.json") -> Config:
    """Restores a config from `to_json`. Raises ConfigError for other JSON, unknown fields and unknown classes."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    config = _decode(tree, where)
    if not isinstance(config, Config):
        raise ConfigError(f"{where} does not hold a config")
    return config


def load_file(path: str | Path) -> Config:
    """Reads the `config.json` of a workdir. Raises ConfigError if it is missing or broken."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is its folder the workdir of a run?")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error
    return from_json(text, str(path))


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
    cls = import_path.load(str(tree["class"]))
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{where}: {tree['class']!r} is not a config class")
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - names - {"class"})
    if unknown:
        raise ConfigError(f"{where}: {cls.__name__} has no field {', '.join(unknown)}")
    try:
        return cls(**{k: _renamed(k, _decode(v, where)) for k, v in tree.items() if k != "class"})
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


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
