"""What all commands share: exit codes, one-line errors, `--debug`, paths, Ctrl-C.

Exit code 0 is success, 1 an error, 2 wrong usage, 75 a training or comparison stopped by SIGTERM, 130 Ctrl-C. An error
is printed to standard error as one line `error: ...` that names the file, key or shape at fault; `--debug` shows the
traceback instead.
"""

import argparse
import io
import os
import re
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn


class UsageError(ValueError):
    """Wrong command-line arguments; ends with exit code 2."""


class PathError(UsageError, argparse.ArgumentTypeError):
    """A path that cannot be one; argparse shows the message as it is."""


def path(text: str | os.PathLike[str]) -> Path:
    """The path that a person gives, on a command line or in a config, with `~` for the home folder.

    Raises PathError for an empty one, an address such as gs://bucket/run, which would become a folder named gs:, and a
    `~` without a home folder.
    """
    text = os.fspath(text)
    if not text or "\0" in text:
        raise PathError(f"{text!r} is not a path")
    if address := re.match(r"[A-Za-z][\w+.-]*(?=:/)", text):
        raise PathError(f"{text} is an address; give a path on this machine (one where {address[0]}: is mounted)")
    try:
        return Path(text).expanduser()
    except RuntimeError as error:
        raise PathError(f"{text}: {one_line(error)}") from error


def real(path: Path) -> Path:
    """The absolute path without links; where they lead in a circle, which `Path.resolve` raises a RuntimeError for, as
    far as it goes."""
    return Path(os.path.realpath(path))


class _Parser(argparse.ArgumentParser):
    def __init__(self, *arguments: Any, **options: Any):
        super().__init__(*arguments, **options)
        self.register("type", Path, path)  # every option with type=Path

    def error(self, message: str) -> NoReturn:
        raise UsageError(f"{message} (see --help)")


def parser(prog: str, description: str, examples: str = "", add_help: bool = True) -> argparse.ArgumentParser:
    """An argument parser with `--debug`. `--help` keeps the line breaks of its texts; errors are UsageErrors."""
    result = _Parser(
        prog=prog,
        description=description,
        epilog=f"examples:\n{examples}" if examples else None,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=add_help,
        allow_abbrev=False,  # a new option must not change the meaning of an abbreviated one
    )
    result.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return result


def add_command(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """A parser for the command `name` of a program, with `--debug`. commands: of `add_subparsers`; text: its help, of
    which the list of commands shows the first line."""
    result = commands.add_parser(
        name,
        help=text.partition("\n")[0],
        description=text,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    result.add_argument("--debug", action="store_true", help="show the full traceback of an error")
    return result


def add_model_options(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds the options `workdir`, `step` and `trust`, which name a trained model; names: others for `--workdir`."""
    parser.add_argument(
        "--workdir",
        *names,
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder of a training run, or an exported folder",
    )
    parser.add_argument("--step", type=int, help="step of the checkpoint of a run (default: the latest)")
    add_trust(parser)


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Adds the option `trust`: packages that a stored config may make the program import."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="PACKAGE",
        help="a package of your own whose classes the config of FOLDER may name; it is imported, so it runs",
    )


def parse(parser: argparse.ArgumentParser, arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses a command line. The arguments `--config.<name>=<value>` go, in this form, into the option `overrides`.

    arguments: without the program's name; None: those of the process. Commands without a config reject overrides by
    `no_overrides`. Raises UsageError for an unknown option.
    """
    plain, overrides = split_overrides(sys.argv[1:] if arguments is None else arguments)
    options, rest = parser.parse_known_args(plain)
    if rest:
        raise UsageError(f"{rest[0]!r} is not an option (--help lists them)")
    options.overrides = overrides
    return options


def split_overrides(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Splits arguments into those without `--config.<name>` and those with: `--config.a=v`, `--config.a v` and, for a
    boolean, `--config.a` and `--noconfig.a`."""
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
    """Raises UsageError for any `--config.<name>`: for commands without a config."""
    if options.overrides:
        raise UsageError(f"{options.overrides[0]!r} is not an option (--help lists them)")


GRACE_SECONDS = 10.0  # after Ctrl-C, for what has to be closed

_said = False  # that the process was interrupted


def starting() -> None:
    """Makes Ctrl-C end the process at once with one line; for the seconds in which a command imports its libraries."""
    signal.signal(signal.SIGINT, _leave)


def _leave(*_: Any) -> None:
    if not _said:
        os.write(2, b"error: interrupted\n")
    os._exit(130)


def _interrupt(*_: Any) -> None:
    """Ctrl-C raises KeyboardInterrupt, and ends the process itself if a library swallows that or closing takes long. A
    second Ctrl-C ends it at once."""
    signal.signal(signal.SIGINT, _leave)
    if not debugging():
        # of a save that was broken off
        warnings.filterwarnings("ignore", r"coroutine '\w+Handler\.\w+' was never awaited")
    timer = threading.Timer(GRACE_SECONDS, _leave)
    timer.daemon = True
    timer.start()
    raise KeyboardInterrupt


@contextmanager
def _interruptible() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, hook = signal.signal(signal.SIGINT, _interrupt), sys.unraisablehook

    def unraisable(found: Any) -> None:  # in a finaliser or callback, where an exception ends nothing
        if found.exc_type is KeyboardInterrupt:
            _leave()
        hook(found)

    sys.unraisablehook = unraisable
    try:
        yield
    finally:
        sys.unraisablehook = hook
        signal.signal(signal.SIGINT, before)


def debugging() -> bool:
    """Whether this process was called with --debug."""
    return "--debug" in sys.argv[1:]


def run(main: Callable[[], int | None], *, usage: tuple[type[Exception], ...] = ()) -> NoReturn:
    """Calls `main`, which returns the exit code (None is 0), and ends the process.

    ValueError (the base of this package's errors), OSError and ImportError become one line and exit code 1; UsageError
    and the types in `usage` become one line and exit code 2. Any other error is a bug and keeps its traceback. With
    `--debug` every error keeps it.
    """
    debug = debugging()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # of names that a terminal cannot show
    if not debug:
        warnings.filterwarnings("ignore", module=r"PIL\.")  # of pictures: an error names those that cannot be read
    if os.getcwd() not in sys.path:  # a user's own modules lie in the current folder, wherever the program does
        sys.path.append(os.getcwd())
    try:
        with _interruptible():
            code = main() or 0
        sys.stdout.flush()  # detects a closed pipe here instead of at interpreter exit
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the flush at exit cannot fail
        code = 1
    except KeyboardInterrupt:
        if debug:
            raise
        global _said
        _said = True
        print("error: interrupted", file=sys.stderr, flush=True)
        if signal.getsignal(signal.SIGINT) is _leave:  # a command: half-made libraries may crash when Python takes down
            sys.stdout.flush()
            os._exit(130)
        code = 130
    except (ValueError, OSError, ImportError, *usage) as error:
        if debug:
            raise
        print(f"error: {one_line(error)}", file=sys.stderr)
        code = 2 if isinstance(error, (UsageError, *usage)) else 1
    sys.exit(code)


def one_line(error: BaseException | str) -> str:
    """A message on one line: file and reason of an OSError, for others all lines joined. Characters that cannot be
    printed, as a file's name may have them, are escaped."""
    text = str(error)
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        name = error.filename
        text = f"{os.fsdecode(name) if isinstance(name, bytes) else name}: {error.strerror}"
    text = " ".join(text.split()) or type(error).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
