"""Pictures of numbers that have no place on the photograph: weights, coefficients, vectors; PNG files in memory."""

from collections.abc import Sequence

import numpy as np

from dyhead_jax.look.figure import INK, MUTED, figure, png
from dyhead_jax.look.record import COEFFICIENTS, Block, Record


def scale_weights(record: Record, blocks: Sequence[Block]) -> bytes:
    """A heat table: a row for each level and candidate, a column for each block."""
    labels, rows = [], []
    for level, stride in enumerate(record.strides):
        for candidate, name in enumerate(candidate_names(level, len(record.strides), len(blocks[0].scale[level]))):
            labels.append(f"stride {stride}: {name}")
            rows.append([float(block.scale[level][candidate]) for block in blocks])
    table = np.array(rows)
    with figure(2.2 + 0.75 * len(blocks), 0.8 + 0.27 * len(rows)) as drawing:
        axes = drawing.subplots()
        image = axes.imshow(table, cmap="YlGnBu", vmin=min(0.5, float(table.min())), vmax=1.0, aspect="auto")
        axes.set_yticks(range(len(labels)), labels)
        axes.set_xticks(range(len(blocks)), [f"block {i + 1}" for i in range(len(blocks))])
        axes.tick_params(length=0)
        for (i, j), value in np.ndenumerate(table):
            axes.text(j, i, f"{value:.3f}", ha="center", va="center", color="white" if value > 0.8 else INK, fontsize=8)
        drawing.colorbar(image, ax=axes, shrink=0.8)
        return png(drawing)


def candidate_names(level: int, levels: int, count: int) -> list[str]:
    """Of the candidates of a level: own, finer, coarser; those of another number are counted."""
    names = ["own level"] + ["finer level"] * (level > 0) + ["coarser level"] * (level < levels - 1)
    return names if len(names) == count else [f"candidate {i + 1}" for i in range(count)]


def task_coefficients(record: Record, blocks: Sequence[Block]) -> bytes:
    """Slopes and intercepts of every channel, channels in the order of their first slope; a row for each block."""
    colors = dict(zip(COEFFICIENTS, ("#0b6e99", "#e07a1f", "#5aa9c7", "#f2b880"), strict=True))
    names = {"a1": "slope a1", "b1": "intercept b1", "a2": "slope a2", "b2": "intercept b2"}
    with figure(2.3 * len(record.strides) + 0.4, 1.7 * len(blocks) + 0.5) as drawing:
        grid = drawing.subplots(len(blocks), len(record.strides), sharex=True, sharey=True, squeeze=False)
        for number, (row, block) in enumerate(zip(grid, blocks, strict=True), 1):
            for axes, stride, level in zip(row, record.strides, block.task, strict=True):
                order = np.argsort(level["a1"], kind="stable")
                for name in reversed(COEFFICIENTS):
                    axes.plot(level[name][order], ".", ms=2.5, color=colors[name], label=names[name])
                axes.axhline(0, color=MUTED, lw=0.5)
                axes.set_title(f"block {number}, stride {stride}")
        handles, texts = grid[0][0].get_legend_handles_labels()
        drawing.legend(handles[::-1], texts[::-1], loc="outside lower center", ncols=4, frameon=False, markerscale=3)
        return png(drawing)


def vectors(values: Sequence[tuple[str, np.ndarray]]) -> bytes:
    """A bar picture for each (title, vector)."""
    with figure(6.5, 1.5 * len(values) + 0.3) as drawing:
        for axes, (title, vector) in zip(drawing.subplots(len(values), squeeze=False)[:, 0], values, strict=True):
            axes.bar(range(len(vector)), vector, width=1.0 if len(vector) > 64 else 0.8, color="#0b6e99")
            axes.set_title(title)
        return png(drawing)
