"""Finding and reading golden files: one `.npz` and one `.json` manifest a case.

`DYHEAD_GOLDENS` names the folder; without it `../shared/goldens` beside the repository, and where that is absent the
small committed set in `tests/goldens`. `make test` takes the small set, `make goldens` no other than a complete one.
Folders in it count too. A case is known by its manifest's `case`, never by the name of its file. Arrays are in PyTorch
layouts; the helpers here turn them to ours.

Every array that is handed out is written down: `reporting` sees to it that none is passed over in silence.
"""

import json
import os
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
SMALL = ROOT / "tests" / "goldens"

read: dict[str, set[str]] = {}
"""Name of a file to the keys that were handed out since `reporting` last looked."""
notes: list[str] = []
"""What a test wants said at the end of the run, the same."""


def folder() -> Path:
    if "DYHEAD_GOLDENS" in os.environ:
        return Path(os.environ["DYHEAD_GOLDENS"]).absolute()
    beside = ROOT.parent / "shared" / "goldens"
    return beside if beside.is_dir() else SMALL


@dataclass(frozen=True)
class Case:
    path: Path  # of the manifest

    @property
    def name(self) -> str:
        """Of the file, from the folder on."""
        inside = self.path.relative_to(folder()) if self.path.is_relative_to(folder()) else Path(self.path.name)
        return inside.with_suffix("").as_posix()

    @cached_property
    def manifest(self) -> dict:
        return json.loads(self.path.read_text())

    @property
    def params(self) -> dict:
        return self.manifest.get("params") or {}

    @property
    def detector(self) -> str | None:
        """mmdetection's name of the whole detector that the case runs."""
        return self.params.get("config", {}).get("type")

    @cached_property
    def _arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    @property
    def keys(self) -> list[str]:
        return list(self._arrays)

    def __getitem__(self, key: str) -> np.ndarray:
        value = self._arrays[key]
        read.setdefault(self.name, set()).add(key)
        return value

    def __contains__(self, key: str) -> bool:
        return key in self._arrays

    def shape(self, key: str) -> tuple[int, ...]:
        return self._arrays[key].shape

    def has(self, prefix: str) -> bool:
        return any(key.startswith(prefix) for key in self._arrays)

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        """By the rest of their keys."""
        return {key.removeprefix(prefix): self[key] for key in self.keys if key.startswith(prefix)}

    def beginning(self, *prefixes: str) -> dict[str, np.ndarray]:
        """By their whole keys."""
        return {key: self[key] for key in self.keys if key.startswith(prefixes)}

    def numbers(self, pattern: str) -> list[int]:
        """The numbers for which `pattern`, in which * stands for one, is a key; ascending."""
        rule = re.compile(re.escape(pattern).replace(r"\*", r"(\d+)"))
        return sorted({int(found[1]) for key in self.keys if (found := rule.fullmatch(key))})

    def numbered(self, pattern: str) -> list[np.ndarray]:
        """The arrays of those keys: levels fine to coarse, or images."""
        found = [self[pattern.replace("*", str(number))] for number in self.numbers(pattern)]
        assert found, f"{self.name} has no {pattern}"
        return found


def all_cases() -> list[Case]:
    """Every manifest of the folder that has a `case`, sorted by name; its arrays may be missing."""
    paths = sorted(folder().rglob("*.json"))
    return [Case(path) for path in paths if path.with_suffix(".npz").exists() or "case" in json.loads(path.read_text())]


def cases(prefix: str) -> list[Case]:
    """All cases whose manifest's `case` begins with `prefix`, sorted by name."""
    whole = [case for case in all_cases() if case.path.with_suffix(".npz").exists()]
    return [case for case in whole if str(case.manifest["case"]).startswith(prefix)]


def stated(text: str, pattern: str) -> float:
    """The number that a manifest states in words."""
    found = re.search(pattern, text)
    assert found, f"the manifest states no {pattern!r}: {text!r}"
    return float(found[1])


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def nchw(array) -> np.ndarray:
    return np.asarray(array).transpose(0, 3, 1, 2)


def hwio(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def relative(got, expected) -> float:
    """Norm of the difference over the norm of the expected value (over 1 where that is zero)."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(got - expected) / (scale if scale > 0 else 1.0))
