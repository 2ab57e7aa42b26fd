"""Exit codes and one-line errors of the command shell."""

import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dyhead_jax import command


def exit_code(main, **options):
    with pytest.raises(SystemExit) as ended:
        command.run(main, **options)
    return ended.value.code


def raises(error):
    def main():
        raise error

    return main


@pytest.fixture(autouse=True)
def _no_arguments(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program"])


def test_success_and_explicit_codes(capsys):
    assert exit_code(lambda: None) == 0
    assert exit_code(lambda: 1) == 1
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("a.json: key 'b'\n  is missing"), 1, "a.json: key 'b' is missing"),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), 1, "/a/b: No such file or directory"),
        (FileNotFoundError(2, "No such file or directory", "a\nb"), 1, "a b: No such file or directory"),
        (ValueError("caf\udce9.jpg \x1b[2J"), 1, r"caf\udce9.jpg \x1b[2J"),
        (OSError("disk full"), 1, "disk full"),
        (command.UsageError("give --x"), 2, "give --x"),
        (KeyError("flag"), 2, "'flag'"),
        (ValueError(), 1, "ValueError"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line(capsys, error, code, text):
    assert exit_code(raises(error), usage=(KeyError,)) == code
    out = capsys.readouterr()
    assert out.err == f"error: {text}\n"
    assert out.out == ""


def test_a_name_that_a_terminal_cannot_show_ends_no_command(monkeypatch):
    stream = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(stream, encoding="latin-1"))
    assert exit_code(lambda: print("\u87ba caf\udce9 \u00e9")) == 0
    assert stream.getvalue() == b"\\u87ba caf\\udce9 \xe9\n"


def test_debug_lets_the_traceback_through(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["program", "--debug"])
    with pytest.raises(ValueError, match="broken"):
        command.run(raises(ValueError("broken")))


def test_a_bug_keeps_its_traceback():
    with pytest.raises(ZeroDivisionError):
        command.run(lambda: 1 // 0)


def test_a_reader_that_goes_away_is_no_traceback():
    code = "from dyhead_jax import command; command.run(lambda: print('x' * 10_000_000))"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.stdout.close()
    with process.stderr as stream:
        assert stream.read() == b""
    assert process.wait(60) == 1


def test_parser_help_and_debug(capsys):
    parser = command.parser("prog", "what it does\n\nline by line", "  prog --debug")
    assert parser.parse_args(["--debug"]).debug
    with pytest.raises(SystemExit):
        parser.parse_args(["--help"])
    out = capsys.readouterr().out
    assert "line by line" in out
    assert "examples:\n  prog --debug" in out
    with pytest.raises(command.UsageError, match="--deb"):
        command.parse(parser, ["--deb"])
    with pytest.raises(command.UsageError, match="--debug: ignored explicit argument 'true'"):
        command.parse(parser, ["--debug=true"])


def test_overrides_of_a_config_are_taken_out_in_every_form():
    parser = command.parser("prog", "")
    parser.add_argument("file")
    line = "--config.a.b=1 x --config.c 2 --config.d -3 --noconfig.e --config.f --debug -config.g=h"
    options = command.parse(parser, line.split())
    assert (options.file, options.debug) == ("x", True)
    assert options.overrides == [
        "--config.a.b=1", "--config.c=2", "--config.d=-3", "--noconfig.e", "--config.f", "--config.g=h"
    ]  # fmt: skip
    with pytest.raises(command.UsageError, match=r"'--config.a.b=1' is not an option"):
        command.no_overrides(options)


# Paths


def test_a_path_is_one_whatever_a_person_writes(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert command.path("~/runs/a") == Path("/home/me/runs/a")
    assert command.path("runs/~a") == Path("runs/~a")
    assert command.path("C:odd name [1]") == Path("C:odd name [1]")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gs://bucket/run", "gs://bucket/run is an address; give a path on this machine"),
        ("s3:/bucket", "is an address"),
        ("file:///tmp/run", "is an address"),
        ("", "'' is not a path"),
        ("a\0b", "is not a path"),
        ("~nobody-of-this-name/run", "~nobody-of-this-name/run: "),
    ],
)
def test_what_is_no_path_is_an_error_in_every_command(text, message):
    with pytest.raises(command.PathError) as error:
        command.path(text)
    assert message in str(error.value)
    parser = command.parser("prog", "")
    command.add_model_options(parser)
    below = command.add_command(parser.add_subparsers(), "part", "")
    below.add_argument("--out", type=Path)
    for line in ([f"--workdir={text}"], ["--workdir=a", "part", f"--out={text}"]):
        with pytest.raises(command.UsageError) as error:
            command.parse(parser, line)
        assert message in str(error.value)


# Ctrl-C, in processes that import nothing large

INTERRUPTED = """
import os, signal, sys, time
from dyhead_jax import command
command.GRACE_SECONDS = 0.2

class Finalised:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)

def main():
    if sys.argv[1] == "finaliser":
        Finalised()
    elif sys.argv[1] == "plain":
        os.kill(os.getpid(), signal.SIGINT)
    else:
        try:
            os.kill(os.getpid(), signal.SIGINT)
        except BaseException:
            pass
    time.sleep(60)

if sys.argv[1] == "imports":
    command.starting()
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:
        pass
    print("the imports go on", flush=True)
command.run(main)
"""


@pytest.mark.parametrize("where", ["plain", "swallowed", "finaliser", "imports"])
def test_one_ctrl_c_ends_a_command_with_one_line(where):
    done = subprocess.run([sys.executable, "-c", INTERRUPTED, where], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "error: interrupted\n")


def test_ctrl_c_is_the_programs_own_again_after_a_command():
    before = signal.getsignal(signal.SIGINT)
    assert exit_code(lambda: None) == 0
    assert signal.getsignal(signal.SIGINT) is before
    # what it was before: a shell's background jobs ignore it
    code = "import signal, sys; old = signal.getsignal(2); import dyhead_jax; sys.exit(signal.getsignal(2) != old)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0  # a library leaves it alone
