"""How many programs XLA compiles and how many come from JAX's compilation cache, by the events that JAX reports."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import jax

_COMPILE = "/jax/core/compile/backend_compile_duration"  # also where the cache had the program
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_seen = {_COMPILE: 0, _CACHE_HIT: 0}


@dataclass
class Compilations:
    """compiled: by XLA; cached: read from the compilation cache instead."""

    compiled: int = 0
    cached: int = 0


@contextmanager
def counted() -> Iterator[Compilations]:
    """Yields the compilations of the block, which are known when the block ends. They are those of the whole process,
    whatever thread makes them."""
    _listen()
    before = dict(_seen)
    result = Compilations()
    yield result
    result.cached = _seen[_CACHE_HIT] - before[_CACHE_HIT]
    result.compiled = _seen[_COMPILE] - before[_COMPILE] - result.cached


@functools.cache
def _listen() -> None:
    def see(event: str, *_: Any, **__: Any) -> None:
        if event in _seen:
            _seen[event] += 1

    jax.monitoring.register_event_listener(see)
    jax.monitoring.register_event_duration_secs_listener(see)
