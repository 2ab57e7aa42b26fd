"""Golden cases E01, E03 and E04: priors, assigners, FCOS targets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes import anchors as grids
from dyhead_jax.boxes import assign, geometry
from tests.parity.goldens import cases, relative, stated

RATIOS = (0.5, 1.0, 2.0)
SPARE = 2  # rows of padding behind an image's boxes, or more


def each(prefix):
    return pytest.mark.parametrize("case", cases(prefix), ids=lambda c: c.name)


def padded(boxes, rows):
    """Boxes and mask, padded with boxes that must not matter."""
    filled = np.tile(np.float32([0, 0, 150, 150]), (rows, 1))
    filled[: len(boxes)] = boxes
    return jnp.asarray(filled), jnp.arange(rows) < len(boxes)


def sizes_of(case, key="sizes"):
    return [tuple(size) for size in case.params[key]]


def strides_of(case, sizes, key="strides", finest=8):
    """As the manifest has them, or doubling from the reference's finest."""
    return tuple(case.params.get(key, [finest << level for level in range(len(sizes))]))


def inside(sizes, strides, pad_shape, each=1):
    """mmdetection's valid_flags: rows and columns of cells that an image of that padded size reaches."""
    for (h, w), stride in zip(sizes, strides, strict=True):
        rows, columns = (
            np.arange(n) < min(-(-side // stride), n) for n, side in ((h, pad_shape[0]), (w, pad_shape[1]))
        )
        yield np.repeat((rows[:, None] & columns[None, :]).reshape(-1), each)


@each("E01")
def test_priors(case):
    """Grids, the anchors of one cell, and which of them an image reaches."""
    sizes = sizes_of(case)
    dense = strides_of(case, sizes)
    rpn = strides_of(case, sizes, "rpn_strides", 4)
    retina, square = (grids.octaves(4.0), RATIOS), ((8.0,), (1.0,))
    anchors = {  # name to strides, scales and ratios, centre offset
        "retina": (dense, *retina, 0.0),
        "atss_offset0": (dense, *square, 0.0),
        "atss_offset05": (dense, *square, 0.5),
        "rpn": (rpn, (8.0,), RATIOS, 0.0),
    }
    points = {"fcos_points": (dense, 0.5), "reppoints_points": (dense, 0.0)}
    pad_shape = [int(stated(case.manifest["what"], rf"pad_shape \({skip}(\d+)")) for skip in ("", r"\d+, *")]
    got = {}
    for name, (strides, scales, ratios, offset) in anchors.items():
        levels = zip(
            grids.anchors(sizes, strides, scales, ratios, offset),
            inside(sizes, strides, pad_shape, len(scales) * len(ratios)),
            strides,
            strict=True,
        )
        for level, (boxes, valid, stride) in enumerate(levels):
            cell = grids.cell_anchors(stride, scales, ratios) + offset * stride
            got |= {f"{name}/l{level}": boxes, f"{name}/valid{level}": valid, f"{name}/base{level}": cell}
    for name, (strides, offset) in points.items():
        levels = zip(grids.points(sizes, strides, offset), inside(sizes, strides, pad_shape), strides, strict=True)
        for level, (xy, valid, stride) in enumerate(levels):
            with_stride = np.column_stack([xy, np.full((len(xy), 2), stride)])
            got |= {f"{name}/l{level}": with_stride, f"{name}/valid{level}": valid}
    assert set(got) == set(case.keys)
    for key, value in got.items():
        np.testing.assert_allclose(value, case[key], rtol=1e-6, atol=1e-5, err_msg=key)


def retina_anchors(case):
    sizes = sizes_of(case)
    return jnp.concatenate(grids.anchors(sizes, strides_of(case, sizes), grids.octaves(4.0), RATIOS, 0.0))


def images_of(case):
    """Number of the image, its boxes padded, and their mask; all images alike in shape."""
    boxes = case.numbered("*/gt")
    rows = max(map(len, boxes)) + SPARE
    for i, some in zip(case.numbers("*/gt"), boxes, strict=True):
        yield i, *padded(some, rows)


def check_labels(case, image, kind):
    """The reference's labels are those of its matches: -1 for what is not positive."""
    index = case[f"{image}/{kind}.gt_inds"].astype(int)
    own = np.append(case[f"{image}/labels"], -1)
    np.testing.assert_array_equal(own[np.where(index > 0, index - 1, -1)], case[f"{image}/{kind}.labels"])


@each("E03")
def test_atss(case):
    sizes = sizes_of(case)
    anchors = jnp.concatenate(grids.anchors(sizes, strides_of(case, sizes)))
    counts = [h * w for h, w in sizes]
    topk = int(stated(case.params["atss"], r"topk (\d+)"))
    run = jax.jit(lambda boxes, mask: assign.atss(anchors, counts, boxes, mask, jnp.ones(len(anchors), bool), topk))
    for i, boxes, mask in images_of(case):
        match, overlap = run(boxes, mask)
        np.testing.assert_array_equal(match + 1, case[f"{i}/atss.gt_inds"])
        positive, expected = np.asarray(match) >= 0, case[f"{i}/atss.max_overlaps"]
        np.testing.assert_allclose(np.asarray(overlap)[positive], expected[positive], rtol=1e-4, atol=1e-6)
        assert (expected[~positive] <= 0).all()  # the reference's mark of no match
        check_labels(case, i, "atss")


@each("E03")
@pytest.mark.parametrize("kind", ["retina", "rpn", "rcnn", "ignore"])
def test_max_iou(case, kind):
    sizes = sizes_of(case, "rpn_sizes")
    rpn = jnp.concatenate(grids.anchors(sizes, strides_of(case, sizes, "rpn_strides", 4), (8.0,), RATIOS, 0.0))
    thresholds = {
        "retina": {"positive": 0.5, "negative": 0.4},
        "rpn": {"positive": 0.7, "negative": 0.3, "min_positive": 0.3},
        "rcnn": {"positive": 0.5, "negative": 0.5, "low_quality": False},
        "ignore": {"positive": 0.5, "negative": 0.4, "ignore_iof": 0.5},
    }[kind]
    run = jax.jit(lambda priors, boxes, mask, *ignored: assign.max_iou(priors, boxes, mask, None, **thresholds))
    if kind == "ignore":
        run = jax.jit(
            lambda priors, boxes, mask, ignored, real: assign.max_iou(
                priors, boxes, mask, None, ignored_boxes=ignored, ignored_mask=real, **thresholds
            )
        )
    compared = 0
    for i, boxes, mask in images_of(case):
        if f"{i}/maxiou_{kind}.gt_inds" not in case:
            assert not mask.any()  # an image without boxes has no regions to ignore either
            continue
        priors = rpn if kind == "rpn" else case[f"{i}/rcnn_priors"] if kind == "rcnn" else retina_anchors(case)
        ignored = padded(case[f"{i}/gt_ignore"], len(boxes)) if kind == "ignore" else ()
        match = run(priors, boxes, mask, *ignored)
        np.testing.assert_array_equal(match + 1, case[f"{i}/maxiou_{kind}.gt_inds"])
        check_labels(case, i, f"maxiou_{kind}")
        if f"{i}/maxiou_{kind}.max_overlaps" in case:
            overlap = jnp.max(jnp.where(mask[None], geometry.pairwise_iou(priors, boxes), 0.0), axis=1)
            np.testing.assert_allclose(overlap, case[f"{i}/maxiou_{kind}.max_overlaps"], rtol=1e-4, atol=1e-6)
        compared += 1
    assert compared or kind == "ignore"


@each("E03")
def test_points(case):
    sizes = sizes_of(case)
    strides = strides_of(case, sizes)
    centers = jnp.concatenate(grids.points(sizes, strides, 0.0))
    strides = jnp.asarray(np.repeat(strides, [h * w for h, w in sizes]), jnp.float32)
    everywhere = jnp.ones(len(centers), bool)
    run = jax.jit(lambda boxes, mask: assign.points(centers, strides, boxes, mask, everywhere))
    for i, boxes, mask in images_of(case):
        if f"{i}/point.gt_inds" in case:
            np.testing.assert_array_equal(run(boxes, mask) + 1, case[f"{i}/point.gt_inds"])
            check_labels(case, i, "point")
        else:  # the case leaves out 0 boxes
            assert not mask.any()
            np.testing.assert_array_equal(run(boxes, mask), assign.MatchStatus.NEGATIVE)


@each("E04")
def test_fcos_targets(case):
    """plain: targets in pixels; plus: centre sampling, targets in strides."""
    sizes = sizes_of(case)
    strides = strides_of(case, sizes)
    background = max(int(level.max()) for level in case.numbered("plain/labels*"))  # some point lies in no box
    points = grids.points(sizes, strides)
    counts = [len(level) for level in points]
    ranges = jnp.asarray(np.repeat(np.float32(case.params["regress_ranges"]), counts, axis=0))
    reach = case.params["center_sample_radius"] * np.float32(strides)
    flat = jnp.concatenate(points)
    images = case.numbers("gt/*.bboxes")
    rows = max(map(len, case.numbered("gt/*.bboxes"))) + SPARE
    for kind, radius in {"plain": None, "plus": jnp.asarray(np.repeat(reach, counts))}.items():
        run = jax.jit(lambda boxes, mask, radius=radius: assign.fcos(flat, boxes, mask, ranges, radius))
        labels, targets, centerness = [], [], []
        for i in images:
            boxes, mask = padded(case[f"gt/{i}.bboxes"], rows)
            match = np.asarray(run(boxes, mask))
            own = np.append(case[f"gt/{i}.labels"], background)
            labels.append(own[match])  # -1 is the background's place
            sides = geometry.encode_distances(flat, boxes[np.maximum(match, 0)])
            targets.append(np.where(match[:, None] >= 0, sides, 0.0))
            centerness.append(np.where(match >= 0, geometry.centerness(flat, boxes[np.maximum(match, 0)]), -1.0))
        got_centerness, start = [], 0
        for level, (count, stride) in enumerate(zip(counts, strides, strict=True)):
            part = slice(start, start + count)
            got = np.concatenate([t[part] for t in targets]) / (stride if kind == "plus" else 1)
            np.testing.assert_array_equal(np.concatenate([x[part] for x in labels]), case[f"{kind}/labels{level}"])
            np.testing.assert_allclose(got, case[f"{kind}/bbox_targets{level}"], atol=1e-4)
            got_centerness += [c for x in centerness for c in x[part] if c >= 0]
            start += count
        assert relative(got_centerness, case[f"{kind}/centerness_pos"]) <= 1e-5
