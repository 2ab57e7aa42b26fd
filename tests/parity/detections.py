"""Comparing lists of scored boxes whose order float32 does not settle."""

import numpy as np


def check_same(got, expected, box_atol: float, score_atol: float = 1e-4) -> None:
    """got, expected: (boxes (n, 4), scores (n,), labels (n,)), best first.

    The same scores in the same order, and for each expected box one of ours with its label and score: where two scores
    are closer to each other than rounding, neighbours may change places.
    """
    np.testing.assert_allclose(got[1], expected[1], atol=score_atol)
    if not len(expected[1]):
        return
    boxes = np.abs(got[0][:, None] - expected[0][None]).max(-1) <= box_atol
    scores = np.abs(got[1][:, None] - expected[1][None]) <= score_atol
    same = boxes & scores & (got[2][:, None] == expected[2][None])
    lacking = np.flatnonzero(~same.any(0))
    assert not len(lacking), f"no counterpart for {len(lacking)} boxes, the first of them {expected[0][lacking[0]]}"
    assert same.any(1).all(), f"boxes of our own: {got[0][~same.any(1)]}"
