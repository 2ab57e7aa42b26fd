"""The pictures of a comparison: a bar for each config, and its AP against steps and against seconds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from dyhead_jax.compare.table import BY_SEED, Row
from dyhead_jax.measure.figures import COLOURS, DASHES, MARKERS, save


def band(curves: Sequence[np.ndarray]) -> np.ndarray:
    """(n, 5): step, mean seconds, and the mean, lowest and highest AP, at the steps at which all curves have a point.

    curves: each (m, 3), see `results.curve`.
    """
    steps = sorted(set.intersection(*(set(curve[:, 0].tolist()) for curve in curves)))
    points = np.array([[curve[curve[:, 0] == step][0] for step in steps] for curve in curves]).reshape(
        -1, len(steps), 3
    )
    ap = points[..., 2]
    return np.stack([np.array(steps), points[..., 1].mean(0), ap.mean(0), ap.min(0), ap.max(0)], axis=1)


def bars(rows: Sequence[Row], results: Mapping[str, BY_SEED], path: Path) -> None:
    """Writes a PNG file: mean AP of each config, a dot for each of its seeds, and the gain over its baseline.

    Groups stand apart, and a baseline is grey.
    """
    groups = list(dict.fromkeys(row.baseline for row in rows))
    heights = {row.name: i + 0.6 * groups.index(row.baseline) for i, row in enumerate(rows)}
    figure = Figure((9, 1.4 + 0.36 * (len(rows) + 0.6 * len(groups))), layout="constrained")
    axes = figure.subplots()
    aps = {row.name: [result.scores["AP"] for result in results[row.name].values()] for row in rows}
    highest = max((ap for found in aps.values() for ap in found), default=1.0) or 1.0
    for row in rows:
        y, found = heights[row.name], aps[row.name]
        if not found:
            axes.text(0, y, " nothing finished", va="center", fontsize=9)
            continue
        axes.barh(y, row.ap, 0.8, color="#BBBBBB" if row.name == row.baseline else COLOURS[0])
        axes.plot(found, [y] * len(found), "o", color="black", markersize=4, markerfacecolor="white")
        gain = f" ({row.gain[0]:+.3f})" if row.gain else ""
        axes.text(max(found) + 0.02 * highest, y, f"{row.ap:.3f}{gain}", va="center", fontsize=9)
    axes.set_yticks(list(heights.values()), [name.replace("$", r"\$") for name in heights])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.25 * highest)
    axes.set_xlabel("AP on the held-out images; dots: seeds; in brackets: gain over the grey bar")
    axes.grid(axis="x", alpha=0.3)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def curves(curves: Mapping[str, Sequence[np.ndarray]], path: Path) -> None:
    """Writes a PNG file: a line and a band for each config.

    curves: by the name of a config those of its finished seeds, see `results.curve`.
    """
    figure = Figure((11, 4.6 + 0.2 * (len(curves) // 3)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    most = max((len(found) for found in curves.values()), default=0)
    for number, (plain, found) in enumerate(curves.items()):
        name = plain.replace("$", r"\$")  # Matplotlib sets formulas between two of these
        look = {
            "color": COLOURS[number % len(COLOURS)],
            "linestyle": DASHES[number // len(COLOURS) % len(DASHES)],
            "marker": MARKERS[number % len(MARKERS)],
        }
        if not found:  # in the legend all the same
            left.plot([], [], label=f"{name} (nothing finished)", **look)
            continue
        points = band(found)
        seeds = f" ({len(found)} of {most} seeds)" if len(found) < most else ""
        for axes, x in ((left, points[:, 0]), (right, points[:, 1])):
            axes.fill_between(x, points[:, 3], points[:, 4], color=look["color"], alpha=0.18, linewidth=0)
            axes.plot(x, points[:, 2], label=name + seeds, linewidth=2, markersize=5, **look)
    for axes, x in ((left, "training steps"), (right, "seconds of training steps, as run")):
        axes.set_xlabel(x)
        axes.set_xlim(left=0)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    left.set_ylim(bottom=0)
    left.set_ylabel("AP (IoU 0.50 to 0.95) on the held-out images")
    band_is = f"line: mean of {most} seeds; band: lowest to highest"
    figure.suptitle(("nothing finished", "one seed")[most] if most < 2 else band_is, fontsize=10)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(3, max(len(curves), 1)), frameon=False)
    save(figure, path)
