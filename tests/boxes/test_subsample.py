"""Random subsets: of the right kind, the right number, and without favourites."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.boxes.subsample import sample


@pytest.mark.parametrize(
    ("positives", "negatives", "count", "expected"),
    [(10, 80, 16, (4, 12)), (2, 80, 16, (2, 14)), (0, 80, 16, (0, 16)), (10, 3, 16, (4, 3)), (90, 0, 16, (4, 0)),
     (30, 60, 1000, (30, 60))],
)  # fmt: skip
def test_numbers(positives, negatives, count, expected):
    kind = jnp.asarray([1] * positives + [2] * negatives + [0] * (100 - positives - negatives))
    got = sample(jax.random.key(0), kind == 1, kind == 2, count, 0.25)
    assert got.index.shape == (min(count, 100),)
    real = np.asarray(got.mask)
    assert (real.sum() - got.positive.sum(), got.positive.sum()) == expected[::-1]
    assert len(set(np.asarray(got.index)[real].tolist())) == real.sum()
    chosen = np.asarray(kind)[np.asarray(got.index)]
    np.testing.assert_array_equal(chosen[np.asarray(got.positive)], 1)
    np.testing.assert_array_equal(chosen[real & ~np.asarray(got.positive)], 2)
    assert not (np.diff(real.astype(int)) > 0).any()  # empty slots last


def test_every_candidate_is_as_likely():
    kind = jnp.asarray([1] * 10 + [2] * 30)
    draw = jax.jit(jax.vmap(lambda k: sample(k, kind == 1, kind == 2, 8, 0.5)))
    got = draw(jax.random.split(jax.random.key(1), 4000))
    seen = np.bincount(np.asarray(got.index).reshape(-1), minlength=40) / 4000
    np.testing.assert_allclose(seen[:10], 4 / 10, atol=0.04)
    np.testing.assert_allclose(seen[10:], 4 / 30, atol=0.03)
