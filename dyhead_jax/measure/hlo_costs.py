"""What each operation of an optimised TPU program costs: the compiler's estimated cycles, and its bytes of HBM.

An operation is an instruction that runs by itself: a fusion is one, what is inside of it is not. Its cycles are what
libtpu wrote beside it (`estimated_cycles`), 0 and counted as unknown where it wrote nothing. Its bytes are those of its
operands and results that lie in HBM, of the elements without the padding of layouts: of an operand of which only slices
are read, those slices, and of a result that is updated in place, the update.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

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
    """scope: where in the Python program it comes from; times: how often it runs; cycles, moved: estimated cycles, None
    where there are none, and bytes of HBM, of one run."""

    name: str
    kind: str
    scope: str
    times: int
    cycles: int | None
    moved: int


def operations(module: Module) -> list[Operation]:
    """All operations of a program, in its order."""
    inside = _Inside(module)
    running = _running(module, inside)
    return [
        Operation(i.name, i.kind, inside.scope(i), module.times[i.computation], _cycles(i.text), inside.moved(i))
        for i in module.instructions
        if i.computation in running and i.kind not in _FREE
    ]


class _Inside:
    """Looks things up in the computations of a module."""

    def __init__(self, module: Module):
        self.computations: dict[str, dict[str, Instruction]] = {}
        for instruction in module.instructions:
            self.computations.setdefault(instruction.computation, {})[instruction.name] = instruction

    def scope(self, instruction: Instruction) -> str:
        """Its op_name; for a fusion without one the most frequent of those inside of it."""
        fused = _callee(instruction.text, "calls")
        if instruction.op_name or fused is None:
            return instruction.op_name
        names = Counter(i.op_name for i in self.computations.get(fused, {}).values() if i.op_name)
        return names.most_common(1)[0][0] if names else ""

    def moved(self, instruction: Instruction) -> int:
        """Bytes of HBM that one run reads and writes."""
        if instruction.kind in ("copy", "slice") and "-start(" in instruction.text:  # result and operand in one tuple
            return min(_each_in_hbm(instruction.shape), default=0)
        around = self.computations[instruction.computation]
        fused = self.computations.get(_callee(instruction.text, "calls") or "", {})
        read = 0
        for number, name in enumerate(_operands(instruction)):
            operand = around.get(name)
            if operand is None or not (whole := sum(_each_in_hbm(operand.shape))):
                continue
            read += self._read(fused, number, whole) if fused else self._used(instruction, number, whole)
        return read + self._written(instruction, fused)

    def _read(self, fused: dict[str, Instruction], number: int, whole: int) -> int:
        """Bytes that a fusion reads of its operand of that number, `whole` bytes."""
        parameter = next((i.name for i in fused.values() if re.search(rf" parameter\({number}\)", i.text)), None)
        users = [(i, _operands(i)) for i in fused.values()]
        uses = [(i, at) for i, operands in users for at, name in enumerate(operands) if name == parameter]
        return min(whole, sum(self._used(user, at, whole) for user, at in uses)) if uses else whole

    def _used(self, user: Instruction, number: int, whole: int) -> int:
        """Bytes that an instruction reads of its operand of that number."""
        if user.kind in _SLICES and number == 0:
            return min(whole, user.size)
        return 0 if user.kind == "dynamic-update-slice" and number == 0 else whole

    def _written(self, instruction: Instruction, fused: dict[str, Instruction]) -> int:
        """Bytes of the results in HBM."""
        whole = sum(_each_in_hbm(instruction.shape))
        updates = [i for i in (fused.values() if fused else [instruction]) if i.kind == "dynamic-update-slice"]
        sizes = [self._size(i, 1) for i in updates if i.size == whole]
        return min(whole, *sizes) if sizes else whole

    def _size(self, instruction: Instruction, number: int) -> int:
        """Bytes of an operand."""
        names = _operands(instruction)
        operand = self.computations[instruction.computation].get(names[number]) if number < len(names) else None
        return operand.size if operand else instruction.size


def _running(module: Module, inside: _Inside) -> set[str]:
    """The computations whose instructions run by themselves: the entry, and what control flow reaches from it."""
    found, waiting = set[str](), [module.entry]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        for i in inside.computations.get(name, {}).values():
            if i.kind == "while":
                waiting += [callee for key in ("body", "condition") if (callee := _callee(i.text, key))]
            elif i.kind == "conditional":
                for group in re.findall(r"branch_computations=\{([^}]*)\}", i.text):
                    waiting += re.findall(r"%?([\w.\-]+)", group)
                waiting += re.findall(r"(?:true|false)_computation=%?([\w.\-]+)", i.text)
            elif i.kind == "call":
                waiting += [callee for key in ("to_apply", "calls") if (callee := _callee(i.text, key))]
    return found


def _callee(text: str, key: str) -> str | None:
    match = re.search(rf"\b{key}=%?([\w.\-]+)", text)
    return match[1] if match else None


def _cycles(text: str) -> int | None:
    match = re.search(r'"estimated_cycles":"(\d+)"', text)
    return int(match[1]) if match else None


def _operands(instruction: Instruction) -> list[str]:
    """Names of the operands."""
    after = instruction.text.partition(" = ")[2][len(instruction.shape) :]
    depth, start = 0, after.index("(") + 1
    for end, letter in enumerate(after[start - 1 :], start - 1):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", after[start:end])
    return []


def _each_in_hbm(shape: str) -> Iterator[int]:
    """Bytes of each array of a type that lies in HBM: one in another memory has that memory's number, such as S(1), in
    its layout."""
    for array, layout in re.findall(r"([a-z]\w*\[[\d,]*\])(\{[^}]*\})?", shape):
        if not re.search(r"S\([1-9]", layout):
            yield hlo.size_of(array)
