"""The page of a run, in Markdown, from its lines."""

from collections.abc import Iterable, Sequence
from typing import Any

from dyhead_jax.measure import tables
from dyhead_jax.ops.deform_conv.dispatch import LARGE

Row = dict[str, Any]
TITLES = {
    "operator": "3x3 deformable convolution with mask",
    "block": "One DyHead block",
    "train": "Training step of ATSS, ResNet-50",
}
NOTES = """\
"of floor" is the time over the larger of arithmetic / measured matrix product and least bytes / measured copy.
Arithmetic: two operations for each multiply-add of the products, in the form `gather`, whose sampling has none. Bytes:
all arguments and results once. "torchvision / ours" is the median of the paired ratios to the fastest of torchvision's
ways, above 1 where ours is faster. "error" is the norm of the difference to the same computation in float32 over the
norm of that, of results / of gradients; torchvision in float16 has its coordinates in float16 too. Inputs stay in the
caches between calls where they fit."""


def page(said: str, statuses: dict[str, Row], rows: Sequence[Row], rehearsal: bool) -> str:
    """said: the command; statuses: by part, what became of it; rows: all lines so far."""
    lines = [f"Command: `{said}`", ""]
    if rehearsal:
        lines += ["**Not run on a GPU**: a rehearsal in miniature on a CPU; its times mean nothing.", ""]
    for row in rows:
        if "machine" in row:
            lines += [", ".join(f"{name} {value}" for name, value in row["machine"].items()), ""]
    lines += ceilings([row for row in rows if row["part"] == "machine" and "flops_per_s" in row])
    for part in ("operator", "block"):
        own = [row for row in rows if row["part"] == part]
        if own:
            compared = {row["reference"]: None for row in own if "reference" in row}
            said_of = [f"All compared with: {', '.join(compared)}.", ""] if compared else []
            lines += [f"## {TITLES[part]}", "", *pairs(own), "", *said_of, *fastest(own), ""]
    own = [row for row in rows if row["part"] == "train"]
    if own:
        lines += [f"## {TITLES['train']}", "", *training(own), ""]
    lines += traces([row for row in rows if row.get("what") == "trace" and "kernels" in row])
    failed = [row for row in rows if "failed" in row]
    if failed:
        lines += ["## What did not run", ""]
        lines += [f"- {row['part']}, {', '.join(words(row))}: {row['failed']}" for row in failed]
        lines.append("")
    lines += ["## Parts", "", *tables.header("part", "", "s")]
    lines += [tables.row(part, status["how"], f"{status['seconds']:.0f}") for part, status in statuses.items()]
    return "\n".join([*lines, "", NOTES])


def faults(rows: Sequence[Row]) -> list[str]:
    """What is wrong with ours: what failed, and what is not equal to the reference."""
    return [
        f"{row['part']}, {', '.join(words(row))}: {row.get('failed', 'not equal to the reference')}"
        for row in rows
        if ("failed" in row and not row.get("name", "").startswith("torchvision"))
        or (row.get("ours") and not row["equal"])
    ]


def words(row: Row) -> list[str]:
    """Where a line belongs: case, candidate, forward or with gradients."""
    names = ("size", "batch", "precision", "name", "what")
    return [f"batch {row[n]}" if n == "batch" else str(row[n]) for n in names if n in row]


def ceilings(rows: Sequence[Row]) -> list[str]:
    if not rows:
        return []
    lines = ["## Ceilings", "", *tables.header("precision", "matrix product, TFLOP/s", "copy, GB/s")]
    for row in rows:
        product, copy = row["flops_per_s"] / 1e12, row["bytes_per_s"] / 1e9
        lines.append(tables.row(row["precision"], f"{product:.3g}", f"{copy:.4g}"))
    return [*lines, ""]


def cases(rows: Iterable[Row]) -> dict[tuple[str, int, str], dict[str, dict[str, Row]]]:
    """The timed lines, by (size, batch, precision), then by candidate, then by forward or forward+backward."""
    found: dict[tuple[str, int, str], dict[str, dict[str, Row]]] = {}
    for row in rows:
        if "median_s" in row:
            case = found.setdefault((row["size"], row["batch"], row["precision"]), {})
            case.setdefault(row["name"], {})[row["what"]] = row
    return found


def pairs(rows: Sequence[Row]) -> list[str]:
    """The table of operator or block."""
    both = ("forward", "with gradients")
    head = (f"{label}, {kind}" for kind in both for label in ("ms", "torchvision / ours", "of floor"))
    lines = tables.header("size", "batch", "precision", "form", *head, "error", "equal")
    for (size, batch, precision), case in cases(rows).items():
        for name, found in case.items():
            each = [found.get("forward", {}), found.get("forward+backward", {})]
            cells = [cell for row in each for cell in (ms(row), ratio(row, "torchvision_over_ours"), of_floor(row))]
            error = " / ".join(f"{row['error']:.0e}" if row else "-" for row in each)
            equal = "yes" if all(row.get("equal", True) for row in each) else "NO"
            lines.append(tables.row(size, str(batch), precision, name, *cells, error, equal))
    return lines


def ms(row: Row) -> str:
    return f"{row['median_s'] * 1e3:.3f}" if row else "-"


def ratio(row: Row, name: str) -> str:
    return f"{row[name]:.2f}" if name in row else "-"


def of_floor(row: Row) -> str:
    return f"{row['median_s'] / row['floor_s']:.1f}" if "floor_s" in row else "-"


def fastest(rows: Sequence[Row]) -> list[str]:
    """Our fastest form of each case, for the choice that "auto" makes."""
    lines = [f'"auto" takes `{LARGE["gpu"]}` on GPUs (dyhead_jax/ops/deform_conv/dispatch.py). The fastest equal form:']  # type: ignore[index]
    for (size, batch, precision), case in cases(rows).items():
        best = []
        for what in ("forward", "forward+backward"):
            times = {
                name: found[what]["median_s"]
                for name, found in case.items()
                if what in found and found[what]["ours"] and found[what]["equal"]
            }
            if times:
                name = min(times, key=times.__getitem__)
                others = max(times.values()) / times[name]
                best.append(f"`{name}` {what} (the slowest takes {others:.2f} times as long)")
        lines.append(f"- {size}, batch {batch}, {precision}: {', '.join(best) or 'none'}")
    return lines


def training(rows: Sequence[Row]) -> list[str]:
    head = ("config", "size", "batch", "precision", "ms", "spread", "images/s", "of floor", "temporaries, GiB")
    lines = tables.header(*head, "compile, s")
    for (size, batch, precision), case in cases(rows).items():
        for name, found in case.items():
            row = found["step"]
            cells = (ms(row), f"{row['spread']:.0%}", f"{batch / row['median_s']:.1f}", of_floor(row))
            more = (f"{row['temporary_bytes'] / 2**30:.2f}", f"{row['compile_s']:.0f}")
            lines.append(tables.row(name, size, str(batch), precision, *cells, *more))
        if len(case) == 2:
            first, second = (found["step"]["median_s"] for found in case.values())
            names = [*case]
            lines += ["", f"{names[0]} / {names[1]}, {precision}: {first / second:.2f}", ""]
    return lines


def traces(rows: Sequence[Row]) -> list[str]:
    """The longest kernels of each trace."""
    lines = []
    for row in rows:
        lines += [f"## Longest kernels: {row['part']}, {', '.join(words(row))}", ""]
        lines += [
            f"All kernels of a call: {row['busy_s'] * 1e3:.3f} ms.",
            "",
            *tables.header("kernel", "calls", "ms", "%"),
        ]
        for kernel in row["kernels"]:
            share = kernel["seconds"] / row["busy_s"] if row["busy_s"] else 0.0
            name = kernel["kernel"].replace("|", "\\|")
            lines.append(
                tables.row(f"`{name}`", f"{kernel['calls']:.0f}", f"{kernel['seconds'] * 1e3:.3f}", f"{share:.0%}")
            )
        lines.append("")
    return lines
