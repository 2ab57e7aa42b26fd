"""Assignment against the same rules written as loops over boxes, on random boxes; padding and empty images."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign

SIZES, STRIDES = [(8, 12), (4, 6), (2, 3)], (8, 16, 32)
COUNTS = [h * w for h, w in SIZES]
STRIDE_OF = np.repeat(STRIDES, COUNTS).astype(np.float32)
PADDED = 8


def draw(seed, count):
    """Boxes in 64 x 96 pixels and their mask; the padding holds a box that would match."""
    random = np.random.default_rng(seed)
    middle, side = random.uniform((0, 0), (96, 64), (count, 2)), np.exp(random.uniform(1.5, 4.2, (count, 2)))
    boxes = np.tile(np.float32([20, 20, 60, 50]), (PADDED, 1))
    boxes[:count] = np.concatenate([middle - side / 2, middle + side / 2], axis=1)
    return boxes, np.arange(PADDED) < count


def overlap(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    both = max(w, 0) * max(h, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


@pytest.fixture(scope="module")
def run():
    """The functions jitted once, of boxes and mask (and centre radius or valid points)."""
    points, corners = jnp.concatenate(grids.points(SIZES, STRIDES)), jnp.concatenate(grids.points(SIZES, STRIDES, 0.0))
    anchors = jnp.concatenate(grids.anchors(SIZES, STRIDES, (2.0, 4.0)))
    limits = np.repeat([[-1, 16], [16, 32], [32, np.inf]], COUNTS, axis=0).astype(np.float32)
    return {
        "fcos": jax.jit(lambda b, m, r: assign.fcos(points, b, m, jnp.asarray(limits), r * STRIDE_OF)),
        "fcos_whole": jax.jit(lambda b, m: assign.fcos(points, b, m, jnp.asarray(limits))),
        "points": jax.jit(lambda b, m, v: assign.points(corners, jnp.asarray(STRIDE_OF), b, m, v, 4.0, 2)),
        "max_iou": jax.jit(lambda b, m: assign.max_iou(anchors, b, m)),
        "anchors": np.asarray(anchors),
    }


@pytest.mark.parametrize("count", [0, 1, 6])
def test_fcos(run, count):
    boxes, mask = draw(count, count)
    points = np.concatenate(grids.points(SIZES, STRIDES))
    for radius in (1.5, None):
        got = run["fcos_whole"](boxes, mask) if radius is None else run["fcos"](boxes, mask, radius)
        for i, (x, y) in enumerate(points):
            best = (math.inf, -1)
            for k, (x1, y1, x2, y2) in enumerate(boxes[:count]):
                sides = (x - x1, y - y1, x2 - x, y2 - y)
                near = radius is None or max(abs(x - (x1 + x2) / 2), abs(y - (y1 + y2) / 2)) < radius * STRIDE_OF[i]
                low, high = {8: (-1, 16), 16: (16, 32), 32: (32, math.inf)}[int(STRIDE_OF[i])]
                if min(sides) > 0 and near and low <= max(sides) <= high:
                    best = min(best, ((x2 - x1) * (y2 - y1), k))
            assert got[i] == best[1]
        assert count < 6 or (np.asarray(got) >= 0).sum() > 5


@pytest.mark.parametrize("count", [0, 1, 6])
def test_points(run, count):
    """Two points a box; those of the padding (right third) do not take part."""
    boxes, mask = draw(10 + count, count)
    points = np.concatenate(grids.points(SIZES, STRIDES, 0.0))
    valid = points[:, 0] < 64
    got = run["points"](boxes, mask, valid)
    expected, nearest = np.where(valid, -1, -2), np.full(len(points), np.inf)
    for k, (x1, y1, x2, y2) in enumerate(boxes[:count]):
        size = max((x2 - x1) * (y2 - y1), 0.0) ** 0.5
        stride = 8 * 2 ** min(max(math.floor(math.log2(size / 4 / 8)), 0), 2)
        here = np.flatnonzero((stride == STRIDE_OF) & valid)
        gap = (points[here] - [(x1 + x2) / 2, (y1 + y2) / 2]) / [x2 - x1, y2 - y1]
        distance = np.linalg.norm(gap, axis=1)
        for j in np.argsort(distance, kind="stable")[:2]:
            if distance[j] < nearest[here[j]]:
                nearest[here[j]], expected[here[j]] = distance[j], k
    np.testing.assert_array_equal(got, expected)


def test_points_at_powers_of_two(run):
    """A box of exactly 4 strides belongs to that level; logarithms in float32 would miss it."""
    boxes, mask = draw(0, 0)
    for side, level in ((31.99, 0), (32, 0), (63.99, 0), (64, 1), (127.9, 1), (128, 2), (1, 0), (5000, 2)):
        boxes[0], mask[0] = [48 - side / 2, 32 - side / 2, 48 + side / 2, 32 + side / 2], True
        got = np.asarray(run["points"](boxes, mask, np.ones(len(STRIDE_OF), bool)))
        assert set(STRIDE_OF[got == 0]) == {STRIDES[level]}


@pytest.mark.parametrize("count", [0, 1, 6])
def test_max_iou(run, count):
    boxes, mask = draw(20 + count, count)
    got = run["max_iou"](boxes, mask)
    table = np.array([[overlap(b, a) for a in run["anchors"]] for b in boxes[:count]]).reshape(
        count, len(run["anchors"])
    )
    best = table.max(axis=0, initial=0.0)
    expected = np.where(best < 0.4, -1, -2)
    if count:
        expected = np.where(best >= 0.5, table.argmax(axis=0), expected)
    for k in range(count):
        expected[np.abs(table[k] - table[k].max()) < 1e-6] = k
    np.testing.assert_array_equal(got, expected)
