"""XLA's count of a program: loops as often as they run, and what is left out is said."""

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax.measure import xla_count

A = jnp.ones((8, 16))
B = jnp.ones((16, 16))
PRODUCT = 2 * 8 * 16 * 16


def counted(function, *arguments):
    return xla_count.of(jax.jit(function).lower(*arguments).compile())


def repeated(times, inner=lambda x, b: x @ b):
    return lambda x, b: jax.lax.scan(lambda carry, _: (inner(carry, b), None), x, None, length=times)[0]


def test_a_program_without_loops_has_the_count_of_cost_analysis():
    executable = jax.jit(lambda a, b: jnp.tanh(a @ b)).lower(A, B).compile()
    found, analysis = xla_count.of(executable), executable.cost_analysis()
    assert (found.operations, found.transcendentals, found.moved) == (
        analysis["flops"],
        analysis["transcendentals"],
        analysis["bytes accessed"],
    )
    assert (found.operations, found.transcendentals, found.missing) == (PRODUCT, 8 * 16, "")


@pytest.mark.parametrize("times", [5, 11])
def test_a_loop_counts_as_often_as_it_runs(times):
    found = counted(repeated(times), A, B)
    products, left = divmod(found.operations, PRODUCT)
    assert products == times
    assert left < 10 * times  # its counter
    assert found.moved > times * 4 * (8 * 16 + 16 * 16 + 8 * 16)
    assert found.missing == ""


def test_loops_within_loops_multiply():
    found = counted(repeated(3, repeated(4)), A, B)
    assert found.operations // PRODUCT == 12
    assert found.missing == ""


def test_a_loop_of_unknown_length_counts_once_and_is_named():
    def until(x, b):
        return jax.lax.while_loop(lambda y: jnp.sum(y) < 1e6, lambda y: y @ b, x)

    found = counted(until, A, B)
    assert found.operations // PRODUCT == 1
    assert found.missing == "1 loops are counted once"


def test_what_a_library_computes_is_not_counted_and_is_named():
    found = counted(jnp.linalg.qr, B)
    assert "custom calls are not counted" in found.missing


def test_without_the_functions_of_jaxlib_loops_count_once_and_are_named(monkeypatch):
    monkeypatch.setattr(xla_count, "_analysed", lambda text: None)  # a version of jaxlib that lacks them
    found = counted(repeated(5), A, B)
    assert found.operations // PRODUCT == 1
    assert found.missing == "1 loops are counted once"
