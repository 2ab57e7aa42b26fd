"""The picture of a run: the time of a call against the pixels of a batch, a line for each program."""

import math
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from dyhead_jax.measure.figures import COLOURS, DASHES, MARKERS, save
from dyhead_jax.measure.report import Report, columns_of
from dyhead_jax.measure.timing import Program, machine, quartiles


def lines(report: Report) -> dict[tuple[str, str, str], list[Program]]:
    """The programs of each line, from few pixels to many, by the program's name, the dtype and the batch; "" for one in
    which the programs do not differ, and for the batch where one size has all batches."""
    programs = [p for p, _ in report.programs()]
    swept = columns_of([p.setting for p in programs])
    by_batch = {"batch", "size"} <= swept.keys()
    found: dict[tuple[str, str, str], list[Program]] = {}
    for p in programs:
        dtype = swept["dtype"](p.setting) if "dtype" in swept else ""
        batch = swept["batch"](p.setting) if by_batch else ""
        found.setdefault((p.name, dtype, batch), []).append(p)
    return {key: sorted(chosen, key=pixels) for key, chosen in found.items()}


def pixels(program: Program) -> int:
    """Of the whole batch."""
    assert program.setting is not None
    return program.setting.batch * math.prod(program.setting.size)


def draw(report: Report, path: Path) -> None:
    """Writes a picture of the format that the file's ending names."""
    found = lines(report)
    orders = [list(dict.fromkeys(keys)) for keys in zip(*found, strict=True)] or [[], [], []]
    figure = Figure((9, 5.2 + 0.14 * len(found)), layout="constrained")
    axes = figure.subplots()
    for (name, dtype, batch), programs in found.items():
        label = ", ".join(filter(None, (name, dtype, batch and f"batch {batch}"))).replace("$", r"\$")
        low, high = zip(*(quartiles(p.seconds) for p in programs), strict=True)
        medians = [p.median for p in programs]
        axes.errorbar(
            [pixels(p) for p in programs],
            [1e3 * t for t in medians],
            yerr=[
                [1e3 * (t - a) for t, a in zip(medians, low, strict=True)],
                [1e3 * (b - t) for t, b in zip(medians, high, strict=True)],
            ],
            label=label,
            color=COLOURS[orders[0].index(name) % len(COLOURS)],
            linestyle=DASHES[orders[1].index(dtype) % len(DASHES)],
            marker=MARKERS[orders[2].index(batch) % len(MARKERS)],
            capsize=3,
        )
    axes.set(
        xscale="log", yscale="log", ylabel="median of a call, ms (bars: quartiles)", xlabel="batch x height x width"
    )
    ticks = _ticks(report)
    slanted = {"rotation": 30, "ha": "right"} if len(ticks) > 4 else {}
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(list(ticks), ["\n".join(labels) for labels in ticks.values()], **slanted)
    axes.grid(alpha=0.3, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    here = machine()
    axes.set_title(
        f"{report.title}\n{here['device']}, {here['processor']}, jax {here['jax']}, {here['date']}", fontsize=9
    )
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=8, handlelength=4)
    save(figure, path)


def _ticks(report: Report) -> dict[int, list[str]]:
    """By the pixels of a batch what they consist of."""
    found: dict[int, list[str]] = {}
    for p, _ in report.programs():
        assert p.setting is not None
        label = f"{p.setting.batch}x{p.setting.size[0]}x{p.setting.size[1]}"
        labels = found.setdefault(pixels(p), [])
        if label not in labels:
            labels.append(label)
    return found
