"""Every operator's gradient against finite differences in float64, those with a derivative of their own above all.

`deform_conv`, `roi_align` and `border_align` have this test beside their others.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

import dyhead_jax
from dyhead_jax.boxes import geometry
from dyhead_jax.detectors import losses
from dyhead_jax.ops import conv, depthwise, narrow_conv, pixels, resize

ROOM = Path(dyhead_jax.__file__).parent


def draw(*shape):
    return np.random.default_rng(sum(shape)).normal(size=shape)


BOXES = np.array([[1.0, 2, 8, 9], [3, 1, 7.5, 6], [0.5, 0.5, 4, 3]])
OTHERS = np.array([[2.0, 3, 9, 8], [2.5, 2, 6, 7], [9, 9, 12, 11]])  # the last pair does not overlap
POINTS = np.array([[4.0, 4], [5, 3], [1, 1]])
LOGITS = np.array([[-2.0, 0.3], [1.5, -0.2]])
OPERATORS = {
    "depthwise": (
        lambda x, k: depthwise.grouped_conv(x, k, groups=3, implementation="shifted"),
        (draw(1, 4, 5, 3), draw(3, 3, 1, 3)),
    ),
    "depthwise, stride 2": (
        lambda x, k: depthwise.grouped_conv(x, k, groups=3, stride=2, implementation="shifted"),
        (draw(2, 5, 4, 3), draw(3, 3, 1, 3)),
    ),
    "grouped": (
        lambda x, k: depthwise.grouped_conv(x, k, groups=2, implementation="shifted"),
        (draw(1, 4, 3, 4), draw(3, 3, 2, 4)),
    ),
    "narrow": (lambda x, k: narrow_conv.narrow_conv(x, k, "shifted"), (draw(1, 4, 3, 4), draw(3, 3, 4, 2))),
    "scale and shift": (conv.scale_shift, (draw(2, 3, 2, 4), draw(4), draw(4))),
    "shift": (lambda x, shift: conv.scale_shift(x, None, shift), (draw(2, 3, 2, 4), draw(4))),
    "channel sum": (conv.channel_sum, (draw(2, 3, 2, 4),)),
    "spread": (lambda v: pixels.spread(v, (3, 2)), (draw(2, 4),)),
    "pixel sum": (pixels.pixel_sum, (draw(2, 3, 2, 4),)),
    "upsampling": (lambda x: resize.upsample_align_corners(x, (5, 4)), (draw(1, 3, 2, 2),)),
    "IoU": (geometry.iou, (BOXES[:2], OTHERS[:2])),
    "GIoU": (geometry.giou, (BOXES, OTHERS)),
    "GIoU, eps added": (lambda a, b: geometry.giou(a, b, "added"), (BOXES, OTHERS)),
    "encode deltas": (lambda p, b: geometry.encode_deltas(p, b, (0.1, 0.1, 0.2, 0.2)), (BOXES, OTHERS)),
    "decode deltas": (geometry.decode_deltas, (BOXES, 0.3 * draw(3, 4))),
    "encode distances": (geometry.encode_distances, (POINTS, BOXES)),
    "decode distances": (geometry.decode_distances, (POINTS, draw(3, 4))),
    "centerness": (geometry.centerness, (POINTS, BOXES)),
    "clip": (lambda b: geometry.clip(b, jnp.array([[7.0, 7.3]])), (BOXES,)),
    "focal": (lambda x: losses.focal(x, jnp.array([[0.0, 1], [1, 0]])), (LOGITS,)),
    "binary cross-entropy": (lambda x: losses.binary_cross_entropy(x, jnp.array([[0.2, 1], [0.7, 0]])), (LOGITS,)),
    "cross-entropy": (lambda x: losses.cross_entropy(x, jnp.array([1, 0])), (LOGITS,)),
    "IoU loss": (losses.iou, (BOXES[:2], OTHERS[:2])),
    "smooth L1": (lambda a, b: losses.smooth_l1(a, b, 0.7), (BOXES, OTHERS + 0.123)),
    "L1": (losses.l1, (BOXES, OTHERS + 0.123)),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_the_gradient_is_that_of_finite_differences(name):
    function, arguments = OPERATORS[name]
    with jax.enable_x64(True):
        arguments = tuple(jnp.asarray(a, jnp.float64) for a in arguments)
        assert jax.tree.leaves(jax.eval_shape(function, *arguments))[0].dtype == jnp.float64
        check_grads(jax.jit(function), arguments, order=1, modes=["rev"], eps=1e-5, atol=1e-6, rtol=1e-6)


def test_no_derivative_of_its_own_is_left_out():
    """A file with a `custom_vjp` has a test of this kind."""
    own = {str(path.relative_to(ROOM)) for path in ROOM.rglob("*.py") if "jax.custom_vjp" in path.read_text()}
    here = {"ops/conv.py", "ops/depthwise.py", "ops/narrow_conv.py", "ops/pixels.py"}
    beside = {"ops/border_align.py", "boxes/roi_align.py", "ops/deform_conv/windows.py", "ops/deform_conv/tap_scan.py"}
    assert own == here | beside
