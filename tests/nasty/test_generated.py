"""Nasty cases of all kinds, made from a seed, and the harness that judges what commands make of them."""

import os
import random
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.nasty import generated, harness, mutations

EACH = {"exported": 3, "records": 10, **dict.fromkeys(("coco", "yolo", "voc"), 20)}  # building a model takes longest
OTHERS = 30


def _wrong(kind: str, seed: int, count: int) -> list[str]:
    return [str(case) for case in generated.go_through([kind], seed, range(count)) if case.fault is not None]


@pytest.mark.parametrize("kind", generated.KINDS)
def test_some_of_each_kind(kind: str) -> None:
    assert not _wrong(kind, 24, EACH.get(kind, OTHERS))


@pytest.mark.long
@pytest.mark.parametrize("kind", generated.KINDS)
def test_many_of_each_kind(kind: str) -> None:
    assert not _wrong(kind, 2024, 4 * EACH.get(kind, OTHERS))


def test_a_seed_gives_the_same_cases() -> None:
    def drawn() -> list[bytes]:
        rng = random.Random(3)
        return [mutations.to_text(mutations.tree({"a": [1, {"b": "c"}]}, rng)[0]) for _ in range(50)]

    assert drawn() == drawn()
    assert len(set(drawn())) > 25


def _prints() -> None:
    print("a library speaks", file=sys.stderr)


def _prints_in_c() -> None:
    os.write(2, b"a library in C speaks\n")


def _warns() -> None:
    warnings.warn("of a library", UserWarning, stacklevel=1)


def _writes() -> None:
    (Path.cwd().parent / "elsewhere").write_text("")


def _runs() -> None:
    os.system("true")


def _breaks() -> None:
    raise KeyError("a")


def _names_nothing() -> None:
    raise ValueError("it is broken")


def _hangs() -> None:
    try:
        time.sleep(60)
    except Exception:
        raise ValueError("nasty") from None


@pytest.mark.parametrize(
    ("main", "fault"),
    [
        (_prints, "on standard error"),
        (_prints_in_c, "on standard error"),
        (_warns, "on standard error"),
        (_writes, "acted: ["),
        (_runs, "acted: ["),
        (_breaks, "traceback"),
        (_names_nothing, "names no file"),
        (_hangs, "traceback"),
    ],
)
def test_the_harness_sees_it(
    main: Callable[[], None], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "SECONDS", 0.2)
    (tmp_path / "here").mkdir()
    found = harness.run(main, folder=tmp_path / "here").fault(["nasty"])
    assert found is not None
    assert found.startswith(fault)
