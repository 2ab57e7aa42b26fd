"""A config as JSON, and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dyhead_jax.config import import_path, nodes
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.experiment import Config

# Words of fields that have other names since; a config.json from before is read all the same.
RENAMED = {
    ("implementation", "taps"): "gather",
    ("implementation", "hat"): "dense",
    ("implementation", "auto_cpu"): "auto",
    ("implementation", "auto_gpu"): "auto",
    ("implementation", "auto_tpu"): "auto",
}


def to_json(config: Config) -> str:
    """The config as JSON, from which `from_json` makes an equal one.

    A node says its class, or, where that was made from what it configures (`nodes.make_node`), the import path of that.
    Raises ConfigError, with the field's name, for what cannot be read back: a class that is defined in a config file,
    or a value that is no number, text or tuple of such.
    """
    return json.dumps(_encode(config, "config"), indent=2)


def from_json(text: str, where: str = "config.json") -> Config:
    """The config that `to_json` wrote. Raises ConfigError for other JSON, unknown fields and unknown classes."""
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ConfigError(f"{where} is not JSON: {error}") from error
    config = _decode(tree, where)
    if not isinstance(config, Config):
        raise ConfigError(f"{where} does not hold a config")
    return config


def load_file(path: str | Path) -> Config:
    """Reads a `config.json` of a workdir. Raises ConfigError when it is missing or broken."""
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; is its folder the workdir of a run?")
    return from_json(path.read_text(), str(path))


def _encode(value: Any, name: str) -> Any:
    if not dataclasses.is_dataclass(value):
        if not nodes.is_plain(value):
            raise ConfigError(
                f"{name} is {value!r}, a {type(value).__name__}; a config holds numbers, text and tuples of such"
            )
        return value
    fields = {f.name: _encode(getattr(value, f.name), f"{name}.{f.name}") for f in dataclasses.fields(value)}
    return fields if isinstance(value, nodes.Options) else {"class": _path_of_class(type(value), name), **fields}


def _decode(tree: Any, where: str) -> Any:
    if isinstance(tree, list):
        return tuple(_decode(v, where) for v in tree)
    if not isinstance(tree, dict):
        return tree
    if "class" not in tree:  # a node's options, for its parent to make the node from
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
    """Classes of this package go by its own name, so that files outlive a move from one of its modules to another."""
    own = cls.__module__.startswith(f"{__package__}.")
    path = f"{__package__ if own else cls.__module__}:{cls.__name__}"
    try:
        found = import_path.load(path)
    except ConfigError:
        found = None
    if found is not cls:
        raise ConfigError(
            f"{name} is a {cls.__name__}, which cannot be imported as {path}; define it in a module, not in the config"
            " file, as evaluation and resumption read it back"
        )
    return path
