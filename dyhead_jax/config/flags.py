"""The command line of train.py: `--config=FILE --config.a.b=VALUE --workdir=DIR`, checked before anything starts.

Values are parsed by `ml_collections.config_flags`; here names are looked up first, so that an error says which name is
wrong and what was probably meant, and `--help` lists every option of a config file with what it is for.
"""

import ast
import dataclasses
import difflib
import inspect
import re
import runpy
import traceback
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from dyhead_jax import config as configs
from dyhead_jax.command import UsageError
from dyhead_jax.config import Config, ConfigError


def parse(argv: list[str], text: str) -> tuple[Config, Path] | None:
    """The checked config and the workdir, or None when `--help` was asked for and printed.

    argv: with the program's name first. text: the first part of the help.
    Raises UsageError for a wrong command line and ConfigError for a wrong config file or value.
    """
    arguments = argv[1:]
    path = _value(arguments, "config")
    if any(argument in ("--help", "-help", "-h") for argument in arguments):
        print(text.strip())
        print(
            "\n" + describe(load_file(path), Path(path.partition(":")[0]))
            if path
            else "\nWith --config=FILE, --help lists its options."
        )
        return None
    if not path:
        raise UsageError("--config=FILE is missing; configs/ has some (--help says more)")
    config = load_file(path)
    _check_names(config, arguments)
    arguments = [argv[0], *_without(arguments, "config")]
    values = flags.FlagValues()
    # Not DEFINE_config_file, which would load the file a second time, by a deprecated way.
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=arguments)
    flags.DEFINE_string("workdir", None, "the run's folder", flag_values=values)
    flags.DEFINE_bool("debug", False, "show the traceback of an error", flag_values=values)
    try:
        rest = values(arguments)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    if len(rest) > 1:
        raise UsageError(f"{rest[1]!r} is not an option; options are --config, --config.<name>, --workdir and --debug")
    if not values.workdir:
        raise UsageError("--workdir=DIR is missing: the folder of the run (--help says more)")
    config, workdir = values.config, Path(values.workdir)
    if workdir.exists() and not workdir.is_dir():
        raise UsageError(f"--workdir={workdir} is a file; it must be a folder, or a name that is free")
    try:
        configs.validate(config)
    except TypeError as error:
        raise ConfigError(f"{path}: a value has the wrong type: {error}") from error
    flags.FLAGS(argv[:1])  # loader processes ask whether the global flags were parsed
    return config, workdir


def override(config: Config, arguments: list[str]) -> Config:
    """`config` with the values of `arguments`, each `--config.<name>=<value>`, checked.

    Raises UsageError for a wrong name or value and ConfigError for a config that no run can use.
    """
    _check_names(config, arguments)
    values, line = flags.FlagValues(), ["", *arguments]
    config_flags.DEFINE_config_dataclass("config", config, flag_values=values, sys_argv=line)
    try:
        values(line)
    except flags.Error as error:
        raise UsageError(str(error)) from error
    configs.validate(values.config)
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

    def add(node: Any, prefix: str) -> None:
        comments = _comments(type(node))
        for field in dataclasses.fields(node):
            value, name = getattr(node, field.name), f"{prefix}.{field.name}"
            if dataclasses.is_dataclass(value):
                add(value, name)
            else:
                comment = comments.get(field.name)
                text = f"  {name}={str(value).replace(' ', '')}"
                lines.append(text if comment is None else f"{text:<58}  # {comment}")

    add(config, "--config")
    return "\n".join(lines)


def _value(arguments: list[str], name: str) -> str | None:
    """The value of --name=value or --name value, the last one given."""
    found = None
    for i, argument in enumerate(arguments):
        key, separator, value = argument.lstrip("-").partition("=")
        if argument.startswith("-") and key == name:
            found = value if separator else next(iter(arguments[i + 1 : i + 2]), None)
    return found


def _without(arguments: list[str], name: str) -> list[str]:
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument in (f"-{name}", f"--{name}"):
            skip = True
        elif not argument.startswith((f"-{name}=", f"--{name}=")):
            kept.append(argument)
    return kept


def _check_names(config: Config, arguments: list[str]) -> None:
    for argument in arguments:
        match = re.match(r"--?(?:no)?config\.([^=]*)", argument)
        if match is None:
            continue
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


def _comments(node: type) -> dict[str, str]:
    try:
        source = inspect.getsource(node)
    except (OSError, TypeError):  # a class without a file
        return {}
    return dict(re.findall(r"^    (\w+): .*?  # (.*)$", source, re.MULTILINE))
