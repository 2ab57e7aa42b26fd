"""Options that are one of a few words: plain strings are understood, and others named with what they may be."""

import jax.numpy as jnp
import pytest

from dyhead_jax.boxes import geometry, postprocess
from dyhead_jax.detectors import losses

BOX = jnp.asarray([[0.0, 0.0, 4.0, 4.0]])


def test_a_word_is_its_member():
    clamp = geometry.DeltaClamp.parse("delta clamp", "both")
    assert clamp is geometry.DeltaClamp.BOTH
    assert clamp == "both"


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: geometry.giou(BOX, BOX, "none"), "giou eps is 'none'; it may be 'floor', 'added'"),
        (
            lambda: geometry.decode_deltas(BOX, BOX, clamp="lower"),
            "delta clamp is 'lower'; it may be 'both', 'upper'",
        ),
        (lambda: losses.iou(BOX, BOX, "square"), "IoU loss mode is 'square'; it may be 'log', 'linear'"),
        (
            lambda: postprocess.suppress(
                postprocess.Candidates(BOX, jnp.ones(1), jnp.zeros(1, jnp.int32)), jnp.asarray([9, 9]), 0.5, 1, "never"
            ),
            "clip_boxes is 'never'; it may be 'before', 'after'",
        ),
    ],
)
def test_another_word_is_an_error(use, message):
    with pytest.raises(ValueError, match=message):
        use()
