"""Finding and reading golden files: one `.npz` and one `.json` manifest a case.

`DYHEAD_GOLDENS` names the folder; without it `../shared/goldens` beside the repository, and where that is absent the
small committed set in `tests/goldens`. Arrays are in PyTorch layouts; the helpers here turn them to ours.
"""

import json
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
KINDS = "ABCDEFGH"


def folder() -> Path:
    if "DYHEAD_GOLDENS" in os.environ:
        return Path(os.environ["DYHEAD_GOLDENS"])
    beside = ROOT.parent / "shared" / "goldens"
    return beside if beside.is_dir() else ROOT / "tests" / "goldens"


@dataclass(frozen=True)
class Case:
    path: Path  # of the manifest

    @property
    def name(self) -> str:
        return self.path.stem

    @cached_property
    def manifest(self) -> dict:
        return json.loads(self.path.read_text())

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        with np.load(self.path.with_suffix(".npz"), allow_pickle=False) as file:
            return {key: file[key] for key in file.files}

    def __getitem__(self, key: str) -> np.ndarray:
        return self.arrays[key]

    def __contains__(self, key: str) -> bool:
        return key in self.arrays

    def under(self, prefix: str) -> dict[str, np.ndarray]:
        return {k.removeprefix(prefix): v for k, v in self.arrays.items() if k.startswith(prefix)}


def cases(prefix: str) -> list[Case]:
    """All cases whose manifest's `case` begins with `prefix`, sorted by name."""
    found = []
    for path in sorted(folder().glob("*.json")):
        if not path.with_suffix(".npz").exists():
            continue
        if str(json.loads(path.read_text())["case"]).startswith(prefix):
            found.append(Case(path))
    return found


def nhwc(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(0, 2, 3, 1))


def hwio(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(2, 3, 1, 0))


def relative(got, expected) -> float:
    """Norm of the difference over the norm of the expected value (over 1 where that is zero)."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    assert got.shape == expected.shape, f"shape {got.shape}, expected {expected.shape}"
    scale = np.linalg.norm(expected)
    return float(np.linalg.norm(got - expected) / (scale if scale > 0 else 1.0))
