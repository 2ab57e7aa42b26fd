"""The command line of a run: `--config=FILE --config.a.b=VALUE --workdir=DIR`, checked before anything starts.

`ml_collections.config_flags` parses the values. This module checks the names first, so that an error says which name is
wrong and suggests a correction, and lists every option of a config file with its explanation for `--help`.
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

from dyhead_jax import command, config
from dyhead_jax.command import UsageError
from dyhead_jax.config import Config, ConfigError, nodes, validate


def parser(prog: str, description: str) -> argparse.ArgumentParser:
    """A parser for the options of a run, for `parse`; a program may add options of its own."""
    result = command.parser(prog, description, add_help=False)
    result.add_argument("-h", "--help", action="store_true", help="show this text, and with --config=FILE its options")
    result.add_argument(
        "--config",
        metavar="FILE",
        help="config file, or the name of one in configs/; --config.NAME=VALUE changes one of its options",
    )
    result.add_argument("--workdir", type=Path, metavar="DIR", help="folder of the run")
    return result


def parse(
    parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None
) -> tuple[Config, argparse.Namespace] | None:
    """The validated config and all options, or None after printing `--help`.

    parser: from the function `parser`; arguments: without the program's name; None: those of the process.
    Raises UsageError for a wrong command line and ConfigError for a wrong config file or value.
    """
    options = command.parse(parser, arguments)
    if options.help:
        print(parser.format_help().rstrip())
        if options.config:
            print("\n" + describe(load_file(options.config), find_file(options.config.partition(":")[0])))
        else:
            print("\nWith --config=FILE, --help lists its options.")
        return None
    if not options.config:
        raise UsageError("--config=FILE is missing; configs/ has some, which need only their name (see --help)")
    config = load_file(options.config)
    try:
        config = override(config, options.overrides)
    except ConfigError as error:
        raise ConfigError(f"{options.config}: {error}") from error
    if options.workdir is None:
        raise UsageError("--workdir=DIR is missing: the folder of the run (see --help)")
    if options.workdir.exists() and not options.workdir.is_dir():
        raise UsageError(f"--workdir={options.workdir} is a file; it must be a folder, or not exist")
    flags.FLAGS(["program"])  # loader processes check that absl's own flags were parsed
    return config, options


def override(config: Config, arguments: Sequence[str]) -> Config:
    """`config` changed by `arguments`, each `--config.<name>=<value>`, and validated.

    An import path given for a node replaces the node; its own options may follow: `--config.model.dyhead.task=m:T
    --config.model.dyhead.task.width=8`. Raises UsageError for a wrong name or value and ConfigError for an invalid
    config.
    """
    arguments = _set_nodes(config, arguments)
    for argument in arguments:
        _check_name(config, argument)
    values, line = flags.FlagValues(), ["", *arguments]
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=line)
    try:
        values(line)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    try:
        validate(values.config)
    except TypeError as error:
        raise ConfigError(f"a value has the wrong type: {error}") from error
    return values.config


def load_file(argument: str) -> Config:
    """The config that `get_config()` of a config file returns; "FILE:TEXT" calls `get_config("TEXT")`.

    FILE: a path, or the name of one of this project's configs, such as atss_r50_dyhead_1x.
    Raises ConfigError, which names the file and the line, if the file does not exist or raises an error.
    """
    name, separator, text = argument.partition(":")
    path = find_file(name)
    try:
        get_config = runpy.run_path(str(path)).get("get_config")
        if get_config is None:
            raise ConfigError("it does not define get_config()")
        if separator and not inspect.signature(get_config).parameters:
            raise ConfigError(f"get_config() takes no argument, so nothing may follow the name of the file (:{text})")
        config = get_config(text) if separator else get_config()
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (Exception, SystemExit) as error:  # a user's file may raise anything
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else (lines[-1] if lines else None)
        raise ConfigError(f"{path}{'' if line is None else f', line {line}'}: {_reason(error)}") from error
    if not isinstance(config, Config):
        raise ConfigError(f"{path}: get_config() returns a {type(config).__name__}, not a dyhead_jax.config.Config")
    return config


def find_file(name: str) -> Path:
    """The config file of a path, or of the name of one of this project's configs. Raises ConfigError for neither."""
    path = Path(name)
    if path.is_file():
        return path
    package = Path(config.__file__).parents[1]
    folders = [folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir()]
    names = sorted(file.stem for folder in folders for file in folder.glob("[a-z]*.py"))
    if name in names:
        return next(file for folder in folders if (file := folder / f"{name}.py").is_file())
    if path.suffix or len(path.parts) > 1:
        raise ConfigError(f"--config={name}: no such file")
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
    raise ConfigError(f"--config={name}: no such file, nor a config of this project; {hint}")


def describe(config: Config, path: Path) -> str:
    """The docstring of a config file and its options, one per line: name, value, and the comment of the field."""
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
    """Sets the nodes that arguments name, outer ones first, and returns the other arguments."""
    node_arguments, rest = [], []
    for argument in arguments:
        name, _, path = argument.removeprefix("--config.").partition("=")
        *parents, last = name.removesuffix(".module").split(".")
        is_node = argument.startswith("--config.") and "=" in argument and _holds_node(config, parents, last)
        if is_node and not path:
            raise UsageError(f"{argument} is empty; give an import path, as in mine:MyClass")
        (node_arguments if is_node else rest).append((argument, parents, last, path))
    for argument, parents, last, path in sorted(node_arguments, key=lambda item: len(item[1])):
        node: Any = config
        for name in parents:
            node = getattr(node, name)
        try:
            setattr(node, last, path)
        except ConfigError as error:
            raise ConfigError(f"{argument.partition('=')[0]}: {error}") from error
    return [argument for argument, *_ in rest]


def _holds_node(config: Config, parents: Sequence[str], last: str) -> bool:
    node: Any = config
    for name in parents:
        if not dataclasses.is_dataclass(node) or name not in _names(node):
            return False
        node = getattr(node, name)
    return isinstance(node, nodes.Parent) and last in node.NODES


def _check_name(config: Config, argument: str) -> None:
    """Raises UsageError unless the config has the field that the argument names."""
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


def _reason(error: Exception | SystemExit) -> str:
    match = re.match(r"'(\w+)' object has no attribute '(\w+)'", str(error))
    node = getattr(config, match[1], None) if match else None
    if match and dataclasses.is_dataclass(node):
        return _unknown(node, match[2])
    if isinstance(error, SyntaxError):
        return f"SyntaxError: {error.msg}"
    return f"{type(error).__name__}: {error}"


def _comments(node: Any) -> dict[str, str]:
    """The comments of the fields of a config class, or of the class from which a node was made."""
    owner = type(node)
    if isinstance(node, nodes.Options):
        owner = nodes.target_of(node)
        owner = owner.func if isinstance(owner, partial) else owner
    try:
        source = inspect.getsource(owner) if isinstance(owner, type) else ""
    except OSError:  # a class without a file
        source = ""
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
