"""A config as JSON, and back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from dyhead_jax.config import import_path
from dyhead_jax.config.experiment import Config
from dyhead_jax.config.validation import ConfigError


def to_json(config: Config) -> str:
    """The config as JSON; each node says its class, so that `from_json` gives back an equal config."""
    return json.dumps(_encode(config), indent=2)


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


def _encode(node: Any) -> Any:
    if not dataclasses.is_dataclass(node):
        return node
    fields = {f.name: _encode(getattr(node, f.name)) for f in dataclasses.fields(node)}
    return {"class": _import_path(type(node)), **fields}


def _decode(tree: Any, where: str) -> Any:
    if isinstance(tree, list):
        return tuple(_decode(v, where) for v in tree)
    if not isinstance(tree, dict):
        return tree
    cls = import_path.load(str(tree.get("class")))
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ConfigError(f"{where}: {tree.get('class')!r} is not a config class")
    names = {f.name for f in dataclasses.fields(cls)}
    unknown = sorted(set(tree) - names - {"class"})
    if unknown:
        raise ConfigError(f"{where}: {cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{k: _decode(v, where) for k, v in tree.items() if k != "class"})


def _import_path(cls: type) -> str:
    """Classes of this package go by its own name, so that files outlive a move from one of its modules to another."""
    module = __package__ if cls.__module__.startswith(f"{__package__}.") else cls.__module__
    return f"{module}:{cls.__name__}"
