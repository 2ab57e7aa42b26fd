"""What XLA counts in a compiled program: operations and bytes, with a loop's body as often as the loop runs.

`compiled.cost_analysis()` counts the body of a loop once, whatever its length. Here the bodies are analysed by
themselves too, and count as often as they run. The count is of the optimised program:

- operations: one for each element of a result of arithmetic, a comparison or a conversion, two for each multiply-add of
  a product, on integers as on floats; exp, tanh, rsqrt and their like are counted apart, as transcendentals.
- bytes: what each fusion reads and writes, as if no cache kept anything from one fusion to the next.

It leaves out what XLA knows nothing of, kernels of libraries and of Pallas (custom calls). A loop whose length depends
on the data counts once.
"""

import importlib
import importlib.util
import re
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np

from dyhead_jax.measure import hlo

_KEYS = ("flops", "transcendentals", "bytes accessed")


@dataclass(frozen=True)
class Count:
    """Of one run: operations, transcendentals, moved (bytes). missing: what the count leaves out, in words, or ""."""

    operations: float
    transcendentals: float
    moved: float
    missing: str


def of(executable: Any) -> Count | None:
    """The count of a compiled program (`jax.stages.Compiled`), None where its backend has none."""
    text, analysis = executable.as_text(), executable.cost_analysis()
    if not text or not analysis:
        return None
    loops = _Loops(text)
    values, once = loops.with_rounds(_values(analysis))
    missing = []
    if calls := loops.module.count("custom-call"):
        missing.append(f"{calls} custom calls are not counted")
    if once:
        missing.append(f"{once} loops are counted once")
    operations, transcendentals, moved = map(float, values)
    return Count(operations, transcendentals, moved, ", ".join(missing))


def _values(analysis: Any) -> np.ndarray:
    return np.array([max(analysis.get(key, 0.0), 0.0) for key in _KEYS])  # -1: unknown


class _Loops:
    """The loops of a program, for counts of their bodies."""

    def __init__(self, text: str):
        self.module = hlo.parse(text)
        self.texts: dict[str, str] = {}  # of each computation, callees first
        text = re.sub(r" stack_frame_id=\d+", "", text)  # of a table that is not taken along
        for match in re.finditer(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{\n(?:.*\n)*?\}.*$", text, re.MULTILINE):
            self.texts[match[1]] = match[0]
        self.found: dict[str, np.ndarray | None] = {}

    @cached_property
    def instructions(self) -> dict[str, list[hlo.Instruction]]:
        """By the computation that holds them."""
        result: dict[str, list[hlo.Instruction]] = {}
        for instruction in self.module.instructions:
            result.setdefault(instruction.computation, []).append(instruction)
        return result

    def with_rounds(self, values: np.ndarray, name: str = "") -> tuple[np.ndarray, int]:
        """The count of a computation (the one that is run), from `values`, in which each loop's body counts once; and
        the number of loops that still count once."""
        total, once = values.copy(), 0
        for loop in self._directly_in(name or self.module.entry):
            rounds, body = self.module.rounds(loop), _body(loop)
            one = None if rounds is None else self._once(body)
            if one is None:
                once += 1
                continue
            all_of_body, once_inside = self.with_rounds(one, body)
            total += (rounds or 0) * all_of_body - one
            once += once_inside
        return total, once

    def _directly_in(self, name: str) -> list[hlo.Instruction]:
        """The loops of a computation and of those that it calls, but not of a loop's body."""
        loops = []
        for instruction in self.instructions.get(name, ()):
            if instruction.kind == "while":
                loops.append(instruction)
            else:
                for callee in hlo.callees(instruction.text):
                    loops += self._directly_in(callee)
        return loops

    def _once(self, name: str) -> np.ndarray | None:
        """XLA's count of a computation by itself, None where this version of jaxlib cannot tell."""
        if name not in self.found:
            self.found[name] = _analysed(self._alone(name)) if name in self.texts else None
        return self.found[name]

    def _alone(self, name: str) -> str:
        """A module that runs the computation `name`."""
        needed, new = {name}, [name]
        while new:
            for instruction in self.instructions.get(new.pop(), ()):
                names = set(hlo.callees(instruction.text)) - needed
                needed |= names
                new += names
        texts = [text for other, text in self.texts.items() if other in needed and other != name]
        return "\n\n".join(["HloModule body", *texts, f"ENTRY {self.texts[name]}"]) + "\n"


def _body(loop: hlo.Instruction) -> str:
    match = re.search(r"body=%?([\w.\-]+)", loop.text)
    assert match is not None, loop.text
    return match[1]


def _analysed(text: str) -> np.ndarray | None:
    """XLA's count of a module in HLO's text. These functions of jaxlib are not public and have moved: None where they
    are in neither of the two places that are known."""
    try:
        analysis: Any = importlib.import_module("jaxlib._jax")
        new = importlib.util.find_spec("jaxlib._hlo") is not None  # jax 0.12 has it, 0.10.1 has not
        parser: Any = importlib.import_module("jaxlib._hlo") if new else analysis
        module = parser.hlo_module_from_text(text)
        return _values(analysis.hlo_module_cost_analysis(jax.devices("cpu")[0].client, module))
    except (ImportError, AttributeError, RuntimeError):  # RuntimeError: no CPU here, or a text that is not read
        return None
