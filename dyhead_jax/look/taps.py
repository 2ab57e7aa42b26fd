"""Where deformable kernels read: for one cell of a level, through one block or composed over several.

Coordinates: y and x of taps are in cells of their level, and the centre of the first cell is 0, as in `deform_conv`. A
cell of a level with stride s covers s x s pixels of the network's input; its centre is ((x + 1/2) s, (y + 1/2) s) in
continuous pixels. Points of a picture are (x, y) in its own pixels, continuous.
Source: paper equation 4 (deformable sampling); Dai et al., Deformable Convolutional Networks, 2017, whose figure of
sampling locations composes three 3x3 kernels to 9 * 9 * 9 = 729 points.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dyhead_jax.look.record import TAPS, Block, Record, RecordError, Sizes

MOST = 729  # points of a composition


class Taps(NamedTuple):
    """Samples, each field (n,): the level (int) that is read, where (float64, in its cells), with what weight, and
    whether the sample has a corner on the map; one without reads zero."""

    level: np.ndarray
    y: np.ndarray
    x: np.ndarray
    weight: np.ndarray
    inside: np.ndarray


class Composed(NamedTuple):
    """The samples, all inside their maps, that reach one cell through several kernels, heaviest first; the weight is
    the product along the way. outside: samples beside their map, which read zero; left_out: the lightest, beyond the
    largest number. Neither are followed further."""

    taps: Taps
    outside: int
    left_out: int


def at_cell(block: Block, kind: str, level: int, cell: tuple[int, int], sizes: Sizes) -> Taps:
    """The samples of one kernel for cell (y, x) of the output level; none where the level has no such neighbour.

    kind: "mid", "low" or "high" (see `look`). Deformable groups follow one another, each with nine taps row by row.
    The coarser level's result is upsampled with aligned corners: a cell blends up to four of its outputs, whose samples
    are all returned, the weight times the blend.
    """
    kernel = block.kernels.get(kind, {}).get(level)
    if kernel is None:
        return _joined([])
    if kind != "high":
        stride, source = (1, level) if kind == "mid" else (2, level - 1)
        return _samples(kernel.offsets[cell], kernel.weights[cell], cell, stride, source, sizes[source])
    grid, coarse = kernel.weights.shape[:2], sizes[level + 1]
    parts = []
    for output, blend in _blended(cell, sizes[level], (grid[0], grid[1])):
        weights = kernel.weights[output] * blend
        taps = _samples(kernel.offsets[output], weights, output, 1, level + 1, (grid[0], grid[1]))
        # with "upsample_first" the kernel reads the coarser map after it was upsampled to `grid`
        y, x = (v * _aligned(own, to) for v, own, to in zip((taps.y, taps.x), grid, coarse, strict=True))
        parts.append(taps._replace(y=y, x=x) if grid != coarse else taps)
    return _joined(parts)


def compose(
    blocks: Sequence[Block],
    kinds: Sequence[str],
    level: int,
    cell: tuple[int, int],
    sizes: Sizes,
    most: int = MOST,
) -> list[Composed]:
    """What reaches cell (y, x) of a level of the last block: through it, through it and the block before, and so on.

    kinds: which kernels are followed. A sample lies between cells; the kernel of the nearest one is followed.
    """
    steps: list[Composed] = []
    ends = [(level, cell[0], cell[1], 1.0)]
    for block in reversed(blocks):
        parts = []
        for end_level, y, x, weight in ends:
            for kind in kinds:
                taps = at_cell(block, kind, end_level, (y, x), sizes)
                parts.append(taps._replace(weight=taps.weight * weight))
        every = _joined(parts)
        inside = _rows(every, every.inside)
        order = np.argsort(-inside.weight, kind="stable")
        kept = _rows(inside, order[:most])
        steps.append(Composed(kept, int((~every.inside).sum()), len(order) - len(kept.level)))
        ends = [
            (own, _nearest(y, sizes[own][0]), _nearest(x, sizes[own][1]), weight)
            for own, y, x, weight, _ in zip(*(field.tolist() for field in kept), strict=True)
        ]
    return steps


def to_picture(taps: Taps, record: Record) -> np.ndarray:
    """The points (n, 2) of the taps as (x, y) in pixels of the picture; some may lie beside it."""
    stride = np.array(record.strides, np.float64)[taps.level]
    return np.stack([(taps.x + 0.5) * stride / record.scale[1], (taps.y + 0.5) * stride / record.scale[0]], axis=1)


def cell_at(record: Record, level: int, point: tuple[float, float]) -> tuple[int, int]:
    """The cell (y, x) of a level that covers a point of the picture. Raises RecordError for a point beside it."""
    height, width = record.image.shape[:2]
    if not (0 <= point[0] < width and 0 <= point[1] < height):
        raise RecordError(f"point {point[0]:g},{point[1]:g} is not in the picture of {width}x{height} pixels")
    stride, (rows, columns) = record.strides[level], record.sizes[level]
    y, x = point[1] * record.scale[0] / stride, point[0] * record.scale[1] / stride
    return min(int(y), rows - 1), min(int(x), columns - 1)


def level_of(record: Record, box: Sequence[float] | None) -> int:
    """The level whose stride is nearest to an eighth of the box's side, the size of ATSS's anchors; box: x1 y1 x2 y2 in
    pixels of the picture, None: the finest."""
    if box is None:
        return 0
    width, height = (box[2] - box[0]) * record.scale[1], (box[3] - box[1]) * record.scale[0]
    side = max(float(width * height), 1.0) ** 0.5
    return int(np.argmin([abs(np.log2(side / (8 * stride))) for stride in record.strides]))


def checked_level(record: Record, level: int) -> int:
    """`level`, or RecordError if the pyramid does not have it."""
    if not 0 <= level < len(record.strides):
        strides = ", ".join(map(str, record.strides))
        raise RecordError(f"level {level}: the model has levels 0 to {len(record.strides) - 1} (strides {strides})")
    return level


def _samples(offsets, weights, cell: tuple[int, int], stride: int, source: int, size: tuple[int, int]) -> Taps:
    tap = np.arange(len(weights)) % TAPS
    y = cell[0] * stride - 1 + tap // 3 + offsets[:, 0].astype(np.float64)
    x = cell[1] * stride - 1 + tap % 3 + offsets[:, 1].astype(np.float64)
    inside = (y > -1) & (x > -1) & (y < size[0]) & (x < size[1])
    return Taps(np.full(len(tap), source), y, x, weights.astype(np.float64), inside)


def _aligned(size: int, to: int) -> float:
    """Cells of a map of `to` cells in one step of a map of `size` cells, where the corner cells coincide."""
    return (to - 1) / (size - 1) if size > 1 else 0.0


def _blended(
    cell: tuple[int, int], size: tuple[int, int], grid: tuple[int, int]
) -> list[tuple[tuple[int, int], float]]:
    """The cells of `grid` that bilinear upsampling to `size` with aligned corners blends into a cell, and how much."""
    axes = []
    for at, own, small in zip(cell, size, grid, strict=True):
        position = at * _aligned(own, small)
        low = min(int(position), small - 1)
        part = position - low
        axes.append([(low, 1 - part), (min(low + 1, small - 1), part)])
    return [((y, x), a * b) for y, a in axes[0] for x, b in axes[1] if a * b > 0]


def _nearest(position: float, size: int) -> int:
    return min(max(round(position), 0), size - 1)


def _rows(taps: Taps, index: np.ndarray) -> Taps:
    return Taps(*(field[index] for field in taps))


def _joined(parts: Sequence[Taps]) -> Taps:
    empty = Taps(np.zeros(0, int), np.zeros(0), np.zeros(0), np.zeros(0), np.zeros(0, bool))
    return Taps(*(np.concatenate(fields) for fields in zip(empty, *parts, strict=True)))
