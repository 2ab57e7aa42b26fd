"""What each operation of an optimised TPU program costs: the compiler's estimated cycles, and its bytes of HBM.

An operation is an instruction that runs by itself: a fusion is one, what is inside of it is not. Its cycles are what
libtpu wrote beside it (`estimated_cycles`); to copies between memories it gives none, and little to what it counts as
done at the same time. Its bytes are those of its operands and results that lie in HBM, of the elements without the
padding of layouts: of an operand of which only slices are read, those slices, and of a result that is updated in place,
the update. A copy that the compiler made belongs to what reads it. Of several branches that the program
chooses from by its data the first counts.
"""

import math
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
_MADE = ("copy", "slice", "dynamic-slice", "bitcast", "async")  # by the compiler, where they have no op_name
_FAR = 20  # values that are looked at to find what reads a copy


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


def operations(text: str) -> list[Operation]:
    """All operations of a program, the text of `compiled.as_text()`."""
    module = hlo.parse(text)
    found = _Computations(module, dict(re.findall(r"%([\w.\-]+) = .* [\w\-]+-done\(%([\w.\-]+)\)", text)))
    return [
        Operation(i.name, i.kind, found.scope(i), module.times[name], _cycles(i.text), found.moved(i))
        for name in found.running()
        for i in found.by_name[name].values()
        if i.kind not in _FREE
    ]


class _Computations:
    """The computations of a module: instructions by name. started: by the name of the end of an asynchronous pair that
    of its start."""

    def __init__(self, module: Module, started: dict[str, str]):
        self._started = started
        self.entry = module.entry
        self.by_name: dict[str, dict[str, Instruction]] = {}
        for instruction in module.instructions:
            self.by_name.setdefault(instruction.computation, {})[instruction.name] = instruction
        self._uses: dict[str, dict[str, list[tuple[Instruction, int]]]] = {}

    def running(self) -> list[str]:
        """Those whose instructions run by themselves: the entry, and what control flow reaches from it, of several
        branches by the first."""
        found, waiting = dict[str, None](), [self.entry]
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.by_name:
                continue
            found[name] = None
            for i in self.by_name[name].values():
                if i.kind in ("call", "while"):
                    waiting += hlo.callees(i.text)
                elif i.kind == "conditional":
                    waiting += hlo.callees(i.text)[:1]
        return list(found)

    def scope(self, instruction: Instruction) -> str:
        """Its op_name; without one, for a fusion the most frequent of those in it, for a copy that of what reads it."""
        if instruction.op_name:
            return instruction.op_name
        names = Counter(i.op_name for i in self.by_name.get(_fused(instruction), {}).values() if i.op_name)
        if names:
            return names.most_common(1)[0][0]
        reached, waiting = {instruction.name}, [instruction.name] if instruction.kind in _MADE else []
        while waiting and len(reached) < _FAR:
            for user, _ in self.users(instruction.computation, waiting.pop(0)):
                if user.op_name:
                    return user.op_name
                if user.name not in reached:
                    reached.add(user.name)
                    waiting.append(user.name)
        return ""

    def users(self, computation: str, name: str) -> list[tuple[Instruction, int]]:
        """What has a value as an operand, and as which."""
        if computation not in self._uses:
            uses = self._uses[computation] = {}
            for instruction in self.by_name[computation].values():
                for number, operand in enumerate(_operands(instruction)):
                    uses.setdefault(self._started.get(operand, operand), []).append((instruction, number))
        return self._uses[computation].get(name, [])

    def moved(self, instruction: Instruction) -> int:
        """Bytes of HBM that one run reads and writes."""
        if "-start(" in instruction.text and instruction.kind in ("copy", "slice"):  # (result, operand, context)
            return min(_in_hbm(instruction.shape), default=0)
        around, total = self.by_name[instruction.computation], self._written(instruction)
        for number, name in enumerate(_operands(instruction)):
            whole = sum(_in_hbm(around[name].shape)) if name in around else 0
            total += self._read(instruction, number, whole) if whole else 0
        return total

    def _read(self, user: Instruction, number: int, whole: int) -> int:
        """Bytes that an instruction reads of its operand of that number, of `whole` bytes."""
        if user.kind in _SLICES and number == 0:
            return min(whole, user.size)
        if user.kind == "dynamic-update-slice" and number == 0:
            return 0
        if user.kind == "bitcast":
            return self._read_of(user.computation, user.name, whole)
        fused = _fused(user)
        parameter = self._parameter(fused, number) if fused in self.by_name else None
        return whole if parameter is None else self._read_of(fused, parameter, whole)

    def _read_of(self, computation: str, name: str, whole: int) -> int:
        """Bytes that all users of a value together read of it; of one without users all."""
        users = self.users(computation, name)
        return min(whole, sum(self._read(user, number, whole) for user, number in users)) if users else whole

    def _parameter(self, computation: str, number: int) -> str | None:
        wanted = f" parameter({number})"
        return next((i.name for i in self.by_name[computation].values() if wanted in i.text), None)

    def _written(self, instruction: Instruction) -> int:
        """Bytes of the results in HBM; of one that is a map with a slice replaced, the slice."""
        whole = sum(_in_hbm(instruction.shape))
        place = self.by_name.get(_fused(instruction))
        around = place or self.by_name[instruction.computation]
        updates = [
            around[operands[1]].size
            for i in (place.values() if place else [instruction])
            if i.kind == "dynamic-update-slice" and i.size == instruction.size
            if (operands := _operands(i))[1] in around
        ]
        return min(whole, *updates) if updates else whole


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
