"""The backend that programs are traced for: JAX's own, or what a context says."""

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax.backbones.resnet import max_pool
from dyhead_jax.ops import backend
from dyhead_jax.ops.resize import upsample_align_corners


@pytest.mark.parametrize(
    ("platform", "expected"),
    [("cpu", "cpu"), ("gpu", "gpu"), ("cuda", "gpu"), ("rocm", "gpu"), ("tpu", "tpu"), ("metal", "gpu")],
)
def test_the_default_is_that_of_jax(platform, expected, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    assert backend.current() == expected
    with backend.tracing_for("tpu"):
        assert backend.current() == "tpu"
    assert backend.current() == expected


def test_contexts_nest_and_end_with_an_error():
    before = backend.current()

    def fail():
        with backend.tracing_for("gpu"), backend.tracing_for("tpu"):
            assert backend.current() is backend.Backend.TPU
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert backend.current() is before


@pytest.mark.parametrize("name", ["cuda", "auto", "CPU", ""])
def test_another_name_is_refused(name):
    with (
        pytest.raises(ValueError, match=f"backend is '{name}'; it may be 'cpu', 'gpu', 'tpu'"),
        backend.tracing_for(name),
    ):
        pass


@pytest.mark.parametrize("ambient", list(backend.Backend))
@pytest.mark.parametrize("form", ["shifted", "lax", "auto"])
def test_pooling_takes_the_form_that_is_named(form, ambient):
    with backend.tracing_for(ambient):
        text = str(jax.make_jaxpr(lambda x: max_pool(x, form))(jnp.zeros((1, 6, 7, 3))))
    assert ("reduce_window" in text) == (form == "lax" or (form == "auto" and ambient != "cpu"))


@pytest.mark.parametrize("ambient", list(backend.Backend))
def test_resizing_repeats_its_matrices_over_the_batch_on_a_cpu_alone(ambient):
    with backend.tracing_for(ambient):
        text = str(jax.make_jaxpr(lambda x: upsample_align_corners(x, (5, 6)))(jnp.zeros((2, 3, 4, 7))))
    assert ("broadcast_in_dim" in text) == (ambient == "cpu")
