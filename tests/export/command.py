"""Runs `python -m dyhead_jax.export` in this process."""

import contextlib
import io
from typing import Any
from unittest import mock

from dyhead_jax import command
from dyhead_jax.export.__main__ import _main


def run(*arguments: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", ["export", *map(str, arguments)]),
    ):
        try:
            command.run(_main)
        except SystemExit as ended:
            code = ended.code
    return int(code), out.getvalue(), err.getvalue()
