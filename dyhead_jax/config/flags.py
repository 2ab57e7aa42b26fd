"""The options of a run: `--config=FILE --config.a.b=VALUE --workdir=DIR`, checked before anything starts.

Values are parsed by `ml_collections.config_flags`; here names are looked up first, so that an error says which name is
wrong and what was probably meant, and `--help` lists every option of a config file with what it is for.
"""

import argparse
import ast
import dataclasses
import difflib
import inspect
import re
import runpy
import traceback
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dyhead_jax import command
from dyhead_jax import config as configs
from dyhead_jax.command import UsageError
from dyhead_jax.config import Config, ConfigError, nodes


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser of the options of a run, to which a program may add its own; see `parse`."""
    result = command.parser(prog, description, add_help=False)
    result.add_argument("-h", "--help", action="store_true", help="with --config=FILE also its options")
    result.add_argument("--config", metavar="FILE", help="a config file; --config.NAME=VALUE changes an option of it")
    result.add_argument("--workdir", type=Path, metavar="DIR", help="the folder of the run")
    return result


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[Config, argparse.Namespace] | None:
    """The checked config and all options, or None when `--help` was asked for and printed.

    parser: of `parser`; arguments: without the program's name, None takes the process's own.
    Raises UsageError for a wrong command line and ConfigError for a wrong config file or value.
    """
    options = command.parse(parser, arguments)
    if options.help:
        print(parser.format_help().rstrip())
        if options.config:
            print("\n" + describe(load_file(options.config), Path(options.config.partition(":")[0])))
        else:
            print("\nWith --config=FILE, --help lists its options.")
        return None
    if not options.config:
        raise UsageError("--config=FILE is missing; configs/ has some (--help says more)")
    config = load_file(options.config)
    try:
        config = override(config, options.overrides)
    except ConfigError as error:
        raise ConfigError(f"{options.config}: {error}") from error
    if options.workdir is None:
        raise UsageError("--workdir=DIR is missing: the folder of the run (--help says more)")
    if options.workdir.exists() and not options.workdir.is_dir():
        raise UsageError(f"--workdir={options.workdir} is a file; it must be a folder, or a name that is free")
    flags.FLAGS(["program"])  # loader processes ask whether absl's own flags were parsed
    return config, options


def override(config: Config, arguments: Sequence[str]) -> Config:
    """`config` with the values of `arguments`, each `--config.<name>=<value>`, checked.

    An import path in the place of a node makes that node anew; its own options follow: `--config.model.dyhead.task=m:T
    --config.model.dyhead.task.width=8`. Raises UsageError for a wrong name or value and ConfigError for a config that
    no run can use.
    """
    arguments = _set_nodes(config, arguments)
    for argument in arguments:
        _find(config, argument)
    values, line = flags.FlagValues(), ["", *arguments]
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=line)
    try:
        values(line)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    try:
        configs.validate(values.config)
    except TypeError as error:
        raise ConfigError(f"a value has the wrong type: {error}") from error
    return values.config


def load_file(argument: str) -> Config:
    """What `get_config()` of a config file returns; "FILE:TEXT" calls `get_config("TEXT")`.

    Raises ConfigError, which names the file and the line, when there is no such file, or it does not run.
    """
    name, separator, text = argument.partition(":")
    path = Path(name)
    if not path.is_file():
        raise ConfigError(f"--config={name}: no such file")
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise ConfigError("it does not define get_config()")
        if separator and not inspect.signature(get_config).parameters:
            raise ConfigError(f"get_config() takes no argument, so that nothing can follow the file's name (:{text})")
        config = get_config(text) if separator else get_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except Exception as error:  # whatever a user's file may raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        raise ConfigError(f"{path}{'' if line is None else f', line {line}'}: {_reason(error)}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() returns a {type(config).__name__}, not a dyhead_jax.config.Config")
    return config


def describe(config: Config, path: Path) -> str:
    """The docstring of a config file and its options, one a line: name, value, and the comment beside its field."""
    doc = ast.get_docstring(ast.parse(path.read_text())) or ""
    lines = [f"{path}:", *(f"  {line}".rstrip() for line in doc.splitlines()), "", "Options and their values:", ""]

    def add(name: str, value: Any, comment: str | None) -> None:
        text = f"  {name}={str(value).replace(' ', '')}"
        lines.append(text if comment is None else f"{text:<58}  # {comment}")

    def walk(node: Any, prefix: str) -> None:
        comments = _comments(node)
        for field in dataclasses.fields(node):
            value, name = getattr(node, field.name), f"{prefix}.{field.name}"
            comment = comments.get(field.name)
            if nodes.is_node(value):
                add(name, value.module, comment)
            if dataclasses.is_dataclass(value):
                walk(value, name)
            elif not (field.name == "module" and nodes.is_node(node)):
                add(name, value, comment)

    walk(config, "--config")
    return "\n".join(lines)


def _set_nodes(config: Config, arguments: Sequence[str]) -> list[str]:
    """Sets the nodes among the arguments, outer ones first, and returns the others."""
    found, rest = [], []
    for argument in arguments:
        name, _, path = argument.removeprefix("--config.").partition("=")
        *parents, last = name.removesuffix(".module").split(".")
        known = argument.startswith("--config.") and path
        (found if known and _is_place_of_node(config, parents, last) else rest).append((argument, parents, last, path))
    for argument, parents, last, path in sorted(found, key=lambda item: len(item[1])):
        node: Any = config
        for name in parents:
            node = getattr(node, name)
        try:
            setattr(node, last, path)
        except ConfigError as error:
            raise ConfigError(f"{argument.partition('=')[0]}: {error}") from error
    return [argument for argument, *_ in rest]


def _is_place_of_node(config: Config, parents: Sequence[str], last: str) -> bool:
    node: Any = config
    for name in parents:
        if not dataclasses.is_dataclass(node) or name not in _names(node):
            return False
        node = getattr(node, name)
    return isinstance(node, nodes.Parent) and last in node.NODES


def _find(config: Config, argument: str) -> None:
    """Raises UsageError unless the config has what the argument names."""
    match = re.match(r"--(?:no)?config\.([^=]*)", argument)
    assert match is not None
    node: Any = config
    for name in match[1].split("."):
        if not dataclasses.is_dataclass(node):
            raise UsageError(f"--config.{match[1]}: there is nothing below {name!r}")
        if name not in _names(node):
            raise UsageError(f"--config.{match[1]}: {_unknown(node, name)}")
        node = getattr(node, name)


def _names(node: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(node)]


def _unknown(node: Any, name: str) -> str:
    close = difflib.get_close_matches(name, _names(node), n=1)
    hint = f"; did you mean {close[0]!r}?" if close else f"; it has {', '.join(_names(node))}"
    kind = node if isinstance(node, type) else type(node)
    return f"{kind.__name__} has no field {name!r}{hint}"


def _reason(error: Exception) -> str:
    match = re.match(r"'(\w+)' object has no attribute '(\w+)'", str(error))
    node = getattr(configs, match[1], None) if match else None
    if match and dataclasses.is_dataclass(node):
        return _unknown(node, match[2])
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    return f"{type(error).__name__}: {error}"


def _comments(node: Any) -> dict[str, str]:
    """The comments beside the fields of a config class, or of the class that a node was made from."""
    owner = type(node)
    if isinstance(node, nodes.Options):
        owner = nodes.target_of(node)
        owner = owner.func if isinstance(owner, partial) else owner
    try:
        source = inspect.getsource(owner) if isinstance(owner, type) else ""
    except OSError:  # a class without a file
        source = ""
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
