"""The shell around every command: exit codes, one-line errors, `--debug`.

Exit code 0 is success, 1 an error, 2 wrong usage, 130 Ctrl-C. An error is one line `error: ...` on standard error that
names the file, key or shape at fault; `--debug` shows the traceback in its place.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn


class UsageError(ValueError):
    """Arguments that make no command; ends with exit code 2."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (--help says more)")


def parser(prog: str, description: str, examples: str = "", add_help: bool = True) -> argparse.ArgumentParser:
    """An argument parser whose `--help` keeps the line breaks of its texts, whose errors are UsageErrors, and which
    knows `--debug`."""
    result = _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
        allow_abbrev=False,  # an option added later must not change what a script means
    )
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return result


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; `overrides` among them are its `--config.<name>=<value>`, in this form.

    arguments: without the program's name; None takes the process's own. A parser for commands without a config refuses
    them by `no_overrides`. Raises UsageError for what is no option.
    """
    plain, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(plain)
    if rest:
        raise UsageError(f"{rest[0]!r} is not an option (--help lists them)")
    options.overrides = overrides
    return options


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without `--config.<name>`, and these: `--config.a=v`, `--config.a v` and, of a switch, `--config.a` and
    `--noconfig.a`."""
    plain, overrides, i = [], [], 0
    while i < len(arguments):
        argument = arguments[i]
        i += 1
        if not re.match(r"--?(no)?config\.", argument):
            plain.append(argument)
            continue
        follows = arguments[i] if i < len(arguments) else "--"
        if "=" not in argument and re.match(r"[^-]|-[\d.]", follows) and not re.match("--?no", argument):
            argument = f"{argument}={follows}"
            i += 1
        overrides.append(re.sub("^--?", "--", argument))
    return plain, overrides


def no_overrides(options: argparse.Namespace) -> None:
    """Raises UsageError for a `--config.<name>` where a command has no config."""
    if options.overrides:
        raise UsageError(f"{options.overrides[0]!r} is not an option (--help lists them)")


def run(main: Callable[[], int | None], *, usage: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Calls `main`, which returns its exit code (None is 0), and ends the process.

    ValueError (the base of this package's errors), OSError and ImportError become one line and exit code 1, UsageError
    and the types in `usage` exit code 2. Anything else is a bug and keeps its traceback. `--debug` among the arguments
    lets every error through.
    """
    debug = "--debug" in sys.argv[1:]
    try:
        code = main() or 0
        sys.stdout.flush()  # a reader that has gone away is noticed here, not in the interpreter's exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nothing left to flush at exit
        code = 1
    except KeyboardInterrupt:
        if debug:
            raise
        print("error: interrupted", file=sys.stderr)
        code = 130
    except (ValueError, OSError, ImportError, *usage) as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2 if isinstance(error, (UsageError, *usage)) else 1
    sys.exit(code)


def one_line(error: BaseException) -> str:
    """The message of an error on one line: of an OSError the file and the reason, of others all lines joined."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return " ".join(str(error).split()) or type(error).__name__
