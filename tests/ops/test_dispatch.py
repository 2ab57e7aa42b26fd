"""Which form of the deformable convolution is traced for which backend."""

import re

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax.ops import backend
from dyhead_jax.ops.deform_conv import deform_conv, dispatch


def test_a_cpu_alone_cuts_positions():
    size = 3 * dispatch.PIECE
    with backend.tracing_for("cpu"):
        assert dispatch.schedule("gather", size) == dispatch.Schedule("gather", pieces=3, store_products=True)
        assert dispatch.schedule("dense", size).pieces == 1
    for name in ("gpu", "tpu"):
        with backend.tracing_for(name):
            assert dispatch.schedule("gather", size) == dispatch.Schedule("gather", pieces=1, store_products=False)


def operations(ambient, implementation, size):
    """Which of some primitives are in forward + backward, traced for a backend, on a map of this size."""
    h, w = size
    arrays = [jnp.zeros(shape) for shape in ((1, h, w, 6), (1, h, w, 9, 2), (1, h, w, 9), (3, 3, 6, 12))]
    run = lambda *a: jnp.sum(deform_conv(*a, padding=1, implementation=implementation))  # noqa: E731
    with backend.tracing_for(ambient):
        text = str(jax.make_jaxpr(jax.grad(run, argnums=(0, 1, 2, 3)))(*arrays))
    return {name for name in ("gather", "while", "optimization_barrier") if re.search(rf"= {name}\b", text)}


WINDOWS = {"gather", "while"}  # the loop over chunks of what lies beyond the windows


@pytest.mark.parametrize("ambient", list(backend.Backend))
@pytest.mark.parametrize(("form", "expected"), [("gather", {"gather"}), ("dense", set()), ("windows", WINDOWS)])
def test_a_named_form_is_used_whatever_the_backend(form, expected, ambient):
    stored = {"optimization_barrier"} if (form, ambient) == ("gather", "cpu") else set()
    assert operations(ambient, form, (6, 7)) == expected | stored


@pytest.mark.parametrize(
    ("ambient", "small", "large"),
    [
        ("cpu", {"gather", "optimization_barrier"}, {"gather", "optimization_barrier"}),
        ("gpu", {"gather"}, {"gather"}),
        ("tpu", set(), WINDOWS),
    ],
)
def test_the_form_of_each_backend(ambient, small, large):
    largest = dispatch.DENSE_PIXELS[backend.Backend(ambient)] or 1
    assert operations(ambient, "auto", (1, largest)) == small
    assert operations(ambient, "auto", (1, largest + 1)) == large
