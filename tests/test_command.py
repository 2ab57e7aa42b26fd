"""Exit codes and one-line errors of the command shell."""

import subprocess
import sys

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
