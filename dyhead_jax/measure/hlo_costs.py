"""What each operation of an optimised TPU program costs: the compiler's estimated cycles, and its bytes of HBM.

An operation is an instruction that runs by itself: a fusion is one, what is inside of it is not. Its cycles are what
libtpu wrote beside it (`estimated_cycles`); to copies between memories it gives none, and little to what it counts as
done at the same time. Its bytes are those of its operands and results that lie in HBM, of the elements without the
padding of layouts: of an operand of which only slices are read, those slices, and of a result that is updated in place,
the update.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from dyhead_jax.measure import hlo
from dyhead_jax.measure.hlo import Instruction, Module

# control flow, names of parts of other values, and what is there before the program runs
_FREE = (
    "after-all",
    "bitcast",
    "call",
    "conditional",
    "constant",
    "get-tuple-element",
    "opt-barrier",
    "parameter",
    "partition-id",
    "tuple",
    "while",
)
_SLICES = ("dynamic-slice", "gather", "slice")


@dataclass(frozen=True)
class Operation:
    """scope: where in the Python program it comes from, "" for what the compiler made; times: how often it runs;
    cycles, moved: of one run, estimated cycles (None where there is no estimate) and bytes of HBM."""

    name: str
    kind: str
    scope: str
    times: int
    cycles: int | None
    moved: int


def operations(module: Module) -> list[Operation]:
    """All operations of a program, in its order."""
    computations: dict[str, list[Instruction]] = {}
    for instruction in module.instructions:
        computations.setdefault(instruction.computation, []).append(instruction)
    inside = {name: _Computation(instructions) for name, instructions in computations.items()}
    return [
        Operation(i.name, i.kind, _scope(i, inside), module.times[name], _cycles(i.text), _moved(i, inside))
        for name in _running(module, computations)
        for i in computations[name]
        if i.kind not in _FREE
    ]


class _Computation:
    """The instructions of a computation by their names, and what uses them."""

    def __init__(self, instructions: list[Instruction]):
        self.by_name = {i.name: i for i in instructions}

    @cached_property
    def uses(self) -> dict[str, list[tuple[Instruction, int]]]:
        """By name, the instructions that have it as an operand, and as which."""
        found: dict[str, list[tuple[Instruction, int]]] = {}
        for instruction in self.by_name.values():
            for number, name in enumerate(_operands(instruction)):
                found.setdefault(name, []).append((instruction, number))
        return found

    @cached_property
    def parameters(self) -> dict[int, str]:
        pattern = re.compile(r" parameter\((\d+)\)")
        return {
            int(m[1]): i.name for i in self.by_name.values() if i.kind == "parameter" and (m := pattern.search(i.text))
        }

    def read(self, number: int, whole: int) -> int:
        """Bytes that are read of the parameter of that number, of `whole` bytes."""
        uses = self.uses.get(self.parameters.get(number, ""), [])
        return min(whole, sum(_used(user, at, whole) for user, at in uses)) if uses else whole


def _running(module: Module, computations: dict[str, list[Instruction]]) -> list[str]:
    """The computations whose instructions run by themselves: the entry, and what control flow reaches from it."""
    found, waiting = dict[str, None](), [module.entry]
    while waiting:
        name = waiting.pop()
        if name in found or name not in computations:
            continue
        found[name] = None
        for i in computations[name]:
            if i.kind in ("call", "conditional", "while"):
                waiting += hlo.callees(i.text)
    return list(found)


def _scope(instruction: Instruction, inside: dict[str, _Computation]) -> str:
    """Its op_name, or for a fusion without one the most frequent of those in it."""
    fused = inside.get(_fused(instruction))
    if instruction.op_name or fused is None:
        return instruction.op_name
    names = Counter(i.op_name for i in fused.by_name.values() if i.op_name)
    return names.most_common(1)[0][0] if names else ""


def _moved(instruction: Instruction, inside: dict[str, _Computation]) -> int:
    """Bytes of HBM that one run reads and writes."""
    if "-start(" in instruction.text and instruction.kind in ("copy", "slice"):  # (result, operand, context)
        return min(_in_hbm(instruction.shape), default=0)
    around, fused = inside[instruction.computation], inside.get(_fused(instruction))
    total = 0
    for number, name in enumerate(_operands(instruction)):
        operand = around.by_name.get(name)
        whole = sum(_in_hbm(operand.shape)) if operand else 0
        if whole:
            total += fused.read(number, whole) if fused else _used(instruction, number, whole)
    return total + _written(instruction, around, fused)


def _used(user: Instruction, number: int, whole: int) -> int:
    """Bytes that an instruction reads of its operand of that number, of `whole` bytes."""
    if user.kind in _SLICES and number == 0:
        return min(whole, user.size)
    return 0 if user.kind == "dynamic-update-slice" and number == 0 else whole


def _written(instruction: Instruction, around: _Computation, fused: _Computation | None) -> int:
    """Bytes of the results in HBM; of one that is a map with a slice replaced, the slice."""
    whole = sum(_in_hbm(instruction.shape))
    place = fused or around
    candidates = list(fused.by_name.values()) if fused else [instruction]
    updates = [i for i in candidates if i.kind == "dynamic-update-slice" and i.size == instruction.size]
    sizes = [update.size for i in updates if (update := place.by_name.get(_operands(i)[1]))]
    return min(whole, *sizes) if sizes else whole


def _fused(instruction: Instruction) -> str:
    """The computation inside of a fusion, "" for another instruction."""
    match = re.search(r"\bcalls=%?([\w.\-]+)", instruction.text) if instruction.kind == "fusion" else None
    return match[1] if match else ""


def _cycles(text: str) -> int | None:
    match = re.search(r'"estimated_cycles":"(\d+)"', text)
    return int(match[1]) if match else None


def _operands(instruction: Instruction) -> list[str]:
    """Names of the operands."""
    after = instruction.text.partition(" = ")[2][len(instruction.shape) :]
    start, depth = after.index("("), 0
    for end, letter in enumerate(after[start:], start):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", after[start:end])
    return []


def _in_hbm(shape: str) -> Iterator[int]:
    """Bytes of each array of a type that lies in HBM. The layout of one in another memory has its number: S(1)."""
    for array, layout in re.findall(r"([a-z]\w*\[[\d,]*\])(\{[^}]*\})?", shape):
        if not re.search(r"S\([1-9]", layout):
            yield sum(element * math.prod(map(int, dims)) for element, dims in hlo.arrays(array))
