"""Damages the newest checkpoint of a run and looks whether anything is silently wrong."""

import contextlib
import io
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax.training.checkpoint import CheckpointError, Checkpoints
from tests.tiny_detector import leaves

Damage = Callable[[Path, np.random.Generator], None]


def flip(path: Path, rng: np.random.Generator) -> None:
    """One bit of a file."""
    content = bytearray(path.read_bytes())
    content[int(rng.integers(len(content)))] ^= 1 << int(rng.integers(8))
    path.write_bytes(content)


def shorten(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(path.read_bytes()[: int(rng.integers(path.stat().st_size))])


def remove(path: Path, rng: np.random.Generator) -> None:
    path.unlink()


def read(folder: Path, like: Any) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
    """(step, arrays, meta) of the newest checkpoint that is not damaged."""
    with Checkpoints(folder, read_only=True) as checkpoints:

        def whole(step: int) -> tuple[int, dict[str, np.ndarray], dict[str, Any]]:
            return step, leaves(checkpoints.restore(step, like)[0]), checkpoints.meta(step)

        return checkpoints.newest(whole)


def silently_wrong(run: Path, like: Any, rng: np.random.Generator, damages: Sequence[Damage]) -> str:
    """Does each damage to one file of the newest checkpoint, drawn by size, and reads what is left.

    Raises AssertionError unless what is read is what was written, of that step, or with a warning of the one before.
    Returns how often which happened.
    """
    found: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        truth = {}
        for step in (int(path.name) for path in (run / "checkpoints").iterdir() if path.name.isdecimal()):
            one = Path(temporary) / "truth" / str(step)
            shutil.copytree(run / "checkpoints" / str(step), one / str(step))
            truth[step] = read(one, like)
        newest = max(truth)
        for damage in damages:
            copy = Path(temporary) / "checkpoints"
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(run / "checkpoints", copy)
            files = sorted(path for path in (copy / str(newest)).rglob("*") if path.is_file() and path.stat().st_size)
            sizes = np.sqrt([path.stat().st_size for path in files])
            path = files[int(rng.choice(len(files), p=sizes / sizes.sum()))]
            damage(path, rng)
            said = io.StringIO()
            with contextlib.redirect_stderr(said):
                try:
                    step, arrays, meta = read(copy, like)
                except CheckpointError as error:
                    raise AssertionError(f"{path}: the intact checkpoint was not used: {error}") from error
            name = path.relative_to(copy)
            assert (step == newest) == (not said.getvalue()), f"{name}: step {step}, said: {said.getvalue()!r}"
            assert said.getvalue().count("\n") <= 1, said.getvalue()
            wanted = truth[step]
            assert meta == wanted[2], f"{name}: the meta is another"
            assert arrays.keys() == wanted[1].keys()
            for key, value in arrays.items():
                assert np.array_equal(value, wanted[1][key], equal_nan=True), f"{name}: {key} is silently wrong"
            found["harmless" if step == newest else "named"] += 1
    return ", ".join(f"{count} {kind}" for kind, count in found.items()) + ", 0 silently wrong"
