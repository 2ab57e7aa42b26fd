"""The backend that programs are traced for: the one place that decides what "auto" means.

Several operations have a form of their own for CPUs, GPUs or TPUs; where no form is named they ask `current`. It is
that of JAX unless `tracing_for` says otherwise, for example to compile a TPU's program on a machine that has none. Only
tracing asks: what `jax.jit` has already traced stays as it is.
"""

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax


class Backend(enum.StrEnum):
    CPU = "cpu"
    GPU = "gpu"
    TPU = "tpu"


_tracing_for: ContextVar[Backend | None] = ContextVar("_tracing_for", default=None)


@contextmanager
def tracing_for(name: str) -> Iterator[None]:
    """Inside, programs are traced for the backend "cpu", "gpu" or "tpu". Raises ValueError for any other name."""
    if name not in tuple(Backend):
        raise ValueError(f"backend is {name!r}; it may be {', '.join(map(repr, map(str, Backend)))}")
    token = _tracing_for.set(Backend(name))
    try:
        yield
    finally:
        _tracing_for.reset(token)


def current() -> Backend:
    """The backend that is traced for: that of the innermost `tracing_for`, else that of `jax.default_backend()`, where
    every name but "cpu" and "tpu" (such as "cuda" or "rocm") counts as a GPU."""
    chosen = _tracing_for.get()
    if chosen is not None:
        return chosen
    name = jax.default_backend()
    return Backend(name) if name in tuple(Backend) else Backend.GPU


def shifted_or_lax() -> str:
    """The form that "auto" means for convolutions and pooling: "shifted" on a CPU, else "lax".

    XLA's CPU backend runs some operations of `lax` many times slower than the same sum written as shifted products.
    """
    return "shifted" if current() is Backend.CPU else "lax"
