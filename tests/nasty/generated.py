"""Nasty cases of all kinds, each made from a seed: see `tests/nasty/__init__.py`."""

import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.nasty import answers, datasets, folders, harness, photographs

Make = Callable[[Path, random.Random, Path], tuple[list[str], str | None]]


def _alone(make: Callable[[Path, random.Random], tuple[list[str], str | None]]) -> Make:
    return lambda folder, rng, _: make(folder, rng)


KINDS: dict[str, Make] = {
    "coco": partial(datasets.case, "coco"),
    "yolo": partial(datasets.case, "yolo"),
    "voc": partial(datasets.case, "voc"),
    "images": _alone(photographs.case),
    "results": _alone(answers.results),
    "weights": _alone(answers.weights),
    "exported": folders.exported,
    "configs": _alone(folders.configs),
    "records": _alone(folders.records),
}


@dataclass
class Case:
    """kind, seed and number make it again; words: what is nasty in it; fault: what is wrong with the reaction."""

    kind: str
    seed: int
    number: int
    words: list[str]
    fault: str | None

    def __str__(self) -> str:
        nasty = "; ".join(self.words)
        again = f"python -m tests.nasty --kinds {self.kind} --seed {self.seed} --first {self.number} --cases 1"
        return f"{again}\n  {nasty}\n  {self.fault}"


def go_through(kinds: Iterable[str], seed: int, numbers: Iterable[int]) -> Iterator[Case]:
    """Makes the cases of these numbers of each kind, and looks at the reactions."""
    with tempfile.TemporaryDirectory() as name:
        bases = Path(name) / "bases"
        bases.mkdir()
        for kind in kinds:
            for number in numbers:
                folder = Path(name) / f"{kind}{number}"
                folder.mkdir()
                try:
                    with harness.limited(4 * harness.SECONDS):
                        words, fault = KINDS[kind](folder, random.Random(f"{kind} {seed} {number}"), bases)
                except harness.Hang:
                    words, fault = [], "the test itself hangs"
                photographs.remove(folder)
                yield Case(kind, seed, number, words, fault)
