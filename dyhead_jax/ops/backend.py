"""Which form of an operation is meant where it says "auto": that of the CPU, or XLA's own.

XLA's CPU backend runs some of `lax` many times slower than the same sum written as shifted products; other backends do
not. Whoever traces on a CPU for another machine says so with `preferred`. It is looked up while tracing: what `jax.jit`
has traced already stays as it is.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_preferred: ContextVar[str] = ContextVar("_preferred", default="auto")


@contextmanager
def preferred(implementation: str) -> Iterator[None]:
    """Inside, "auto" means `implementation`, "shifted" or "lax"."""
    token = _preferred.set(implementation)
    try:
        yield
    finally:
        _preferred.reset(token)


def auto() -> str:
    """What "auto" means here: "shifted" where the backend is the CPU, else "lax", unless `preferred` says otherwise."""
    implementation = _preferred.get()
    if implementation == "auto":
        implementation = "shifted" if jax.default_backend() == "cpu" else "lax"
    return implementation
