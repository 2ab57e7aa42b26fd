"""Tables and picture of what a TPU program is made of: by part of the model and by operation, beside the floors."""

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from matplotlib.figure import Figure

from dyhead_jax.measure import figures, model_parts, tables
from dyhead_jax.measure.hlo_costs import Operation
from dyhead_jax.measure.model_parts import PASSES


@dataclass(frozen=True)
class Peak:
    """What a chip can do: bfloat16 operations and bytes of HBM a second, and cycles."""

    flops: float
    bandwidth: float
    clock: float


# Operations and bandwidth: Google Cloud's documentation, "TPU system architecture", the page of each version. Cycles
# follow from them: operations / (2 x the multiply-adds of all matrix units in a cycle), which are 8 units of 128 x 128
# on a v4 and v5p chip, 4 on a v5e, and 4 of 256 x 256 on a v6e.
PEAKS = {
    "v4": Peak(275e12, 1228e9, 1.05e9),
    "v5e": Peak(197e12, 819e9, 1.5e9),
    "v5p": Peak(459e12, 2765e9, 1.75e9),
    "v6e": Peak(918e12, 1640e9, 1.75e9),
}


@dataclass
class Part:
    """seconds: the estimate, by pass; flops: arithmetic; moved: bytes of HBM."""

    seconds: dict[str, float] = dataclasses.field(default_factory=lambda: dict.fromkeys(PASSES, 0.0))
    flops: float = 0.0
    moved: float = 0.0

    @property
    def total(self) -> float:
        return sum(self.seconds.values())

    def floors(self, peak: Peak) -> tuple[float, float]:
        """Seconds of the arithmetic and of the bytes at the chip's peaks."""
        return self.flops / peak.flops, self.moved / peak.bandwidth


def parts_of(operations: Sequence[Operation], flops: dict[str, float], peak: Peak) -> dict[str, Part]:
    """By name, in the order of `model_parts.NAMES`, those that have any cost. flops: arithmetic by part."""
    found = defaultdict[str, Part](Part)
    for operation in operations:
        part = found[model_parts.part_of(operation.scope)]
        seconds = operation.times * (operation.cycles or 0) / peak.clock
        part.seconds[model_parts.pass_of(operation.scope)] += seconds
        part.moved += operation.times * operation.moved
    for name, count in flops.items():
        found[name].flops += count
    return {name: found[name] for name in dict.fromkeys([*model_parts.NAMES, *found]) if name in found}


def part_table(parts: dict[str, Part], peak: Peak) -> str:
    """How long each part takes by the estimate, and how far that is from its arithmetic and its bytes."""
    passes = [name for name in PASSES if any(part.seconds[name] for part in parts.values())]
    whole = Part(flops=sum(p.flops for p in parts.values()), moved=sum(p.moved for p in parts.values()))
    whole.seconds = {name: sum(p.seconds[name] for p in parts.values()) for name in PASSES}
    head = (
        "part",
        "ms",
        "share",
        *passes,
        "GFLOP",
        "at the peak, ms",
        "GB",
        "at full bandwidth, ms",
        "times the larger",
    )
    rows: list[tuple[str, ...]] = [head]
    for name, part in [*parts.items(), ("all", whole)]:
        arithmetic, traffic = part.floors(peak)
        floor = max(arithmetic, traffic)
        rows.append(
            (
                name,
                f"{part.total * 1e3:.2f}",
                f"{part.total / whole.total:.0%}" if whole.total else "-",
                *(f"{part.seconds[n] * 1e3:.2f}" for n in passes),
                f"{part.flops / 1e9:.1f}",
                f"{arithmetic * 1e3:.2f}",
                f"{part.moved / 1e9:.3f}",
                f"{traffic * 1e3:.2f}",
                far(part.total, floor),
            )
        )
    return tables.aligned(rows)


def far(seconds: float, floor: float) -> str:
    """A time over its floor."""
    if not floor or not seconds:
        return "-"
    return f"{seconds / floor:.1f}" if seconds < 1000 * floor else "> 1000"


def operation_table(operations: Sequence[Operation], peak: Peak, count: int) -> str:
    """The kinds of operations that take longest: those of one part and pass with one name in the Python program."""
    found = defaultdict[tuple[str, str, str], list[float]](lambda: [0.0, 0.0, 0.0])
    for operation in operations:
        named = operation.scope.rpartition("/")[2] or operation.kind
        key = model_parts.part_of(operation.scope), model_parts.pass_of(operation.scope), named
        cost = (
            operation.times,
            operation.times * (operation.cycles or 0) / peak.clock,
            operation.times * operation.moved,
        )
        found[key] = [a + b for a, b in zip(found[key], cost, strict=True)]
    total = sum(seconds for _, seconds, _ in found.values())
    longest = sorted(found.items(), key=lambda item: -item[1][1])[:count]
    rows = [("operation", "part", "pass", "times", "ms", "share", "MB")]
    for (part, direction, named), (times, seconds, moved) in longest:
        share = f"{seconds / total:.0%}" if total else "-"
        rows.append(
            (f"`{named}`", part, direction, f"{times:.0f}", f"{seconds * 1e3:.2f}", share, f"{moved / 1e6:.0f}")
        )
    return tables.aligned(rows)


def draw(parts: dict[str, Part], peak: Peak, title: str, path: Path) -> None:
    """Writes a picture in the format of its ending: a bar for each part, with marks where its arithmetic alone and its
    bytes alone would end."""
    names = [*parts][::-1]
    figure = Figure((10, 1.8 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(names)
    for direction, colour in zip(PASSES, figures.COLOURS, strict=False):
        lengths = [parts[name].seconds[direction] * 1e3 for name in names]
        if any(lengths):
            axes.barh(names, lengths, left=left, color=colour, label=direction, height=0.7)
            left = [a + b for a, b in zip(left, lengths, strict=True)]
    floors = [parts[name].floors(peak) for name in names]
    for number, (label, marker) in enumerate(
        (("its arithmetic at the peak", "|"), ("its bytes at full bandwidth", "x"))
    ):
        axes.plot(
            [floor[number] * 1e3 for floor in floors],
            names,
            marker,
            color="black",
            markersize=11,
            label=label,
            zorder=3,
        )
    for name, end in zip(names, left, strict=True):
        axes.annotate(f" {parts[name].total * 1e3:.1f}", (end, name), va="center", fontsize=8)
    axes.set_xlabel("ms, by the compiler's estimate")
    axes.set_xlim(0, 1.08 * max(left, default=1.0))
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_title(title, fontsize=10, loc="left")
    axes.legend(frameon=False, fontsize=8, loc="best")
    figures.save(figure, path)
