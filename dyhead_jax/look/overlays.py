"""Pictures on the photograph: samples of deformable kernels, and maps as heat maps; PNG files in memory.

Coordinates: points and boxes in pixels of the picture, continuous; a cell of a map covers its stride's pixels.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from dyhead_jax.look.figure import figure, png
from dyhead_jax.look.record import KINDS, Record
from dyhead_jax.look.taps import Composed, Taps, to_picture

Region = tuple[float, float, float, float]  # x1 y1 x2 y2

_COLORS, _RANGE = "plasma", Normalize(0, 1)
_WIDEST = 1600  # pixels of a photograph that is drawn whole


def where(record: Record, point: tuple[float, float], box: Sequence[float] | None, region: Region) -> bytes:
    """The whole picture with the point, the box and the part that the pictures of taps show."""
    with _panels(1, 1, 4.2, _whole(record)) as (drawing, ((axes,),)):
        _photograph(axes, record, _whole(record))
        for corners, color, style in ((region, "white", "--"), (box, "#ffd166", "-")):
            if corners is not None:
                x1, y1, x2, y2 = (float(v) for v in corners)
                axes.add_patch(Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=color, linestyle=style))
        _cross(axes, point)
        return png(drawing)


def region_of(record: Record, taps: Sequence[Taps], point: tuple[float, float], stride: int) -> Region:
    """The part of the picture, near enough a square, that has the point and all taps that lie in the picture, and at
    least twelve cells of the stride."""
    height, width = record.image.shape[:2]
    points = np.concatenate([[point], *(to_picture(group, record) for group in taps)])
    points = points[_in_picture(points, record)]
    low, high = points.min(0), points.max(0)
    side = max(1.2 * float((high - low).max()), 12 * stride / min(record.scale))
    middle = (low + high) / 2
    (x1, x2), (y1, y2) = (_span(middle[axis], side, length) for axis, length in ((0, float(width)), (1, float(height))))
    return x1, y1, x2, y2


def block_taps(record: Record, taps: dict[str, Taps], point: tuple[float, float], region: Region) -> bytes:
    """One panel for each kernel of a block. taps: by kind, see `look`. Samples beside the picture are counted."""
    with _panels(1, len(taps), 2.3, region) as (drawing, (row,)):
        for axes, (kind, group) in zip(row, taps.items(), strict=True):
            _photograph(axes, record, region)
            beside = _scatter(axes, record, group, 26)
            _cross(axes, point)
            axes.set_title(f"{KINDS[kind]}: {len(group.level)} samples" + _also(beside, "beside"), fontsize=8)
        _weight_bar(drawing, row)
        return png(drawing)


def composed_taps(
    record: Record, steps: dict[str, list[Composed]], point: tuple[float, float], region: Region
) -> bytes:
    """A row for each list of steps, by title, and a column for each number of blocks. Samples beside the picture or
    their map are counted as beside."""
    columns = max(len(row) for row in steps.values())
    with _panels(len(steps), columns, 2.4, region) as (drawing, grid):
        for row, (title, own) in zip(grid, steps.items(), strict=True):
            for number, (axes, step) in enumerate(zip(row, own, strict=True), 1):
                _photograph(axes, record, region)
                beside = _scatter(axes, record, step.taps, max(26 / number**2, 4))
                _cross(axes, point)
                last = "last block" if number == 1 else f"last {number} blocks"
                beside, lighter = beside + step.outside, step.left_out
                counts = [f"{beside} beside" * bool(beside), f"{lighter} lighter not shown" * bool(lighter)]
                axes.set_title(
                    f"{title}, {last}: {len(step.taps.level)} samples\n" + ", ".join(filter(None, counts)), fontsize=7
                )
        _weight_bar(drawing, grid)
        return png(drawing)


def maps(record: Record) -> bytes:
    """The size of the features at every cell, before the first block and after each: a row for each level."""
    stages = [record.before, *(block.after for block in record.blocks)]
    region = _whole(record)
    with _panels(len(record.strides), len(stages), 2.2, region) as (drawing, grid):
        for level, (row, stride) in enumerate(zip(grid, record.strides, strict=True)):
            for number, (axes, stage) in enumerate(zip(row, stages, strict=True)):
                _photograph(axes, record, region, grey=True)
                _heat(axes, record, stride, strength(stage[level]))
                axes.set_title(f"stride {stride}, " + (f"after block {number}" if number else "before"))
        return png(drawing)


def recorded_maps(record: Record, values: Sequence[tuple[str, int, np.ndarray]]) -> bytes:
    """A heat map for each (title, level, array (h_l, w_l, ...)), over the picture."""
    region = _whole(record)
    columns = min(len(values), 4)
    rows = -(-len(values) // columns)
    with _panels(rows, columns, 2.6, region) as (drawing, grid):
        panels = [axes for row in grid for axes in row]
        for axes, (title, level, array) in zip(panels, values, strict=False):
            _photograph(axes, record, region, grey=True)
            _heat(axes, record, record.strides[level], strength(array))
            axes.set_title(title)
        for axes in panels[len(values) :]:
            axes.set_axis_off()
        return png(drawing)


def strength(array: np.ndarray) -> np.ndarray:
    """(h, w): the root mean square over all further axes of (h, w, ...)."""
    return np.sqrt(np.mean(np.square(array.reshape(*array.shape[:2], -1), dtype=np.float64), axis=-1))


def _heat(axes: Any, record: Record, stride: int, values: np.ndarray) -> None:
    """A map over the picture, from its smallest value on the picture to its 99.5th percentile there."""
    rows, columns = (-(-length // stride) for length in record.size)
    on_picture = values[:rows, :columns]
    low, high = float(on_picture.min()), float(np.percentile(on_picture, 99.5))
    extent = (0, on_picture.shape[1] * stride / record.scale[1], on_picture.shape[0] * stride / record.scale[0], 0)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.imshow(on_picture, cmap="inferno", vmin=low, vmax=max(high, low + 1e-12), alpha=0.6, extent=extent)
    axes.set(xlim=limits[0], ylim=limits[1])


def _scatter(axes: Any, record: Record, taps: Taps, size: float) -> int:
    """Draws the taps in the picture and returns the number of the others."""
    points = to_picture(taps, record)
    shown = _in_picture(points, record) & taps.inside
    order = np.argsort(taps.weight[shown], kind="stable")  # the heaviest on top
    x, y = points[shown][order].T
    rim = 0.6 if size > 10 else 0.2
    weight = taps.weight[shown][order]
    axes.scatter(x, y, s=size, c=weight, cmap=_COLORS, norm=_RANGE, edgecolors="white", linewidths=rim)
    return int((~shown).sum())


def _weight_bar(drawing: Figure, axes: Any) -> None:
    drawing.colorbar(ScalarMappable(_RANGE, _COLORS), ax=axes, label="weight", aspect=30, pad=0.01, shrink=0.8)


def _in_picture(points: np.ndarray, record: Record) -> np.ndarray:
    height, width = record.image.shape[:2]
    return (points >= 0).all(1) & (points[:, 0] < width) & (points[:, 1] < height)


def _cross(axes: Any, point: tuple[float, float]) -> None:
    axes.plot(*point, "+", ms=13, mew=3.2, color="white")
    axes.plot(*point, "+", ms=12, mew=1.4, color="#00a86b")


def _photograph(axes: Any, record: Record, region: Region, grey: bool = False) -> None:
    height, width = record.image.shape[:2]
    step = max(1, -(-max(height, width) // _WIDEST)) if region == _whole(record) else 1
    image = record.image[::step, ::step]
    if grey:
        image = np.repeat(image.mean(2, keepdims=True), 3, axis=2).astype(np.uint8)
    axes.imshow(image, extent=(0, width, height, 0), interpolation="antialiased")
    axes.set(xlim=(region[0], region[2]), ylim=(region[3], region[1]), xticks=[], yticks=[])


@contextmanager
def _panels(rows: int, columns: int, width: float, region: Region) -> Iterator[tuple[Figure, Any]]:
    """A grid of axes, each `width` inches wide and of the region's shape, with room for a title."""
    shape = min(max((region[3] - region[1]) / (region[2] - region[0]), 0.1), 3.0)
    with figure(columns * width, rows * (width * shape + 0.3)) as drawing:
        yield drawing, drawing.subplots(rows, columns, squeeze=False)


def _whole(record: Record) -> Region:
    return 0.0, 0.0, float(record.image.shape[1]), float(record.image.shape[0])


def _span(middle: float, side: float, length: float) -> tuple[float, float]:
    side = min(side, length)
    low = min(max(middle - side / 2, 0.0), length - side)
    return low, low + side


def _also(count: int, what: str) -> str:
    return f" ({count} {what})" if count else ""
