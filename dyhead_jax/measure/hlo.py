"""Reads optimised HLO: the instructions of a program, their bytes, and how often they run.

The text of `compiled.as_text()` is a list of computations with one instruction a line. An instruction in the body of a
loop runs as often as the loop, if the compiler noted that number or the loop's condition compares a counter with a
constant, as that of `jax.lax.scan` does; a loop of unknown length counts once. Bytes are those of the elements, without
padding by layouts.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

# bytes of an element; types that are not listed (tokens, opaque) count as 0
_BYTES = {"pred": 1, "s4": 1, "u4": 1, "f8": 1, "bf16": 2, "c64": 8, "c128": 16}
_BYTES |= {f"{kind}{8 * size}": size for kind in "suf" for size in (1, 2, 4, 8)}
COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)


@dataclass(frozen=True)
class Instruction:
    """computation: the name of the computation that holds it; kind: the opcode, for the start of an asynchronous pair
    without its "-start"; shape: of the result, as written; text: the whole line."""

    computation: str
    name: str
    kind: str
    shape: str
    text: str

    @property
    def size(self) -> int:
        """Bytes of the result, without the operand that the start of an asynchronous instruction returns beside it."""
        parts = [math.prod(map(int, dims)) * element for element, dims in arrays(self.shape)]
        paired = re.search(r" (all-gather|collective-permute)-start\(", self.text)
        return parts[1] if paired else sum(parts)

    @property
    def op_name(self) -> str:
        """Where in the Python program it comes from, "" for one that the compiler made."""
        match = re.search(r'op_name="([^"]*)"', self.text)
        return match[1] if match else ""


@dataclass(frozen=True)
class Module:
    """All instructions, and the name of the computation that is run."""

    instructions: tuple[Instruction, ...]
    entry: str

    @cached_property
    def times(self) -> dict[str, int]:
        """How often each computation runs in one run of the program."""
        callers: dict[str, list[tuple[str, int]]] = {}
        for instruction in self.instructions:
            count = (self.rounds(instruction) or 1) if instruction.kind == "while" else 1
            for callee in callees(instruction.text):
                callers.setdefault(callee, []).append((instruction.computation, count))
        runs = {self.entry: 1}

        def runs_of(name: str) -> int:
            if name not in runs:
                runs[name] = sum(runs_of(caller) * count for caller, count in callers.get(name, ()))
            return runs[name]

        return {instruction.computation: runs_of(instruction.computation) for instruction in self.instructions}

    def of_kind(self, *kinds: str) -> Iterator[tuple[Instruction, int]]:
        """The instructions with one of these opcodes, and how often each of them runs."""
        for instruction in self.instructions:
            if instruction.kind in kinds:
                yield instruction, self.times[instruction.computation]

    def count(self, *kinds: str) -> int:
        """How often instructions with one of these opcodes run in one run of the program."""
        return sum(times for _, times in self.of_kind(*kinds))

    def rounds(self, loop: Instruction) -> int | None:
        """Rounds of a loop if the compiler noted them or the condition is `counter < constant`, otherwise None."""
        known = re.search(r'"known_trip_count":\{"n":"(\d+)"', loop.text)
        if known:
            return int(known[1])
        match = re.search(r"condition=%?([\w.\-]+)", loop.text)
        inside = [i for i in self.instructions if match and i.computation == match[1]]
        constants = {i.name: int(m[1]) for i in inside if (m := re.search(r"\bconstant\((\d+)\)", i.text))}
        for i in inside:
            compared = re.search(r"compare\(([^)]*)\), direction=LT", i.text)
            if compared:
                return next(
                    (constants[name] for name in re.findall(r"%?([\w.\-]+)", compared[1]) if name in constants), None
                )
        return None


def parse(text: str) -> Module:
    """The module in `compiled.as_text()`. Raises ValueError if there is no entry computation."""
    instructions, entry, computation = [], None, ""
    for line in text.splitlines():
        head = re.match(r"(ENTRY )?%?([\w.\-]+) \(.*\{$", line)
        if head:
            computation = head[2]
            entry = computation if head[1] else entry
            continue
        match = re.match(r"\s+(?:ROOT )?%?([\w.\-]+) = (.*)$", line)
        if match is None or not computation:
            continue
        shape = _shape(match[2])
        opcode = re.match(r" ([\w\-]+)\(", match[2][len(shape) :])
        if opcode and not opcode[1].endswith(("-done", "-update")):
            kind = opcode[1].removesuffix("-start")
            instructions.append(Instruction(computation, match[1], kind, shape, line.strip()))
    if entry is None:
        raise ValueError("the text has no ENTRY computation: it is not an HLO module")
    return Module(tuple(instructions), entry)


def _shape(text: str) -> str:
    """The type at the beginning of `text`: all before the first blank, or the whole of a tuple."""
    if not text.startswith("("):
        return text.partition(" ")[0]
    depth = 0
    for end, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if depth == 0:
            return text[: end + 1]
    raise ValueError(f"a bracket does not close in {text[:80]!r}")


def arrays(shape: str) -> Iterator[tuple[int, list[str]]]:
    """For each array of a type the bytes of an element and the sizes of its axes."""
    for kind, dims in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shape):
        element = _BYTES.get(kind, 1 if kind.startswith("f8") else 0)
        yield element, [size for size in dims.split(",") if size]


def callees(text: str) -> list[str]:
    """Names of the computations that an instruction runs, including reducers and comparators, which do little work."""
    names = re.findall(r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)", text)
    for group in re.findall(r"(?:branch_computations|called_computations)=\{([^}]*)\}", text):
        names += re.findall(r"%?([\w.\-]+)", group)
    return names
