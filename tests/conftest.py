"""Strict test mode: warnings are errors (pyproject), rank promotion too, eight CPU devices, a shared compile cache.

Most of the time goes into compilation, as programs are many and small (see `quick_flags`). XLA_FLAGS of the environment
come last and win.
"""

import gc
import os
from pathlib import Path

from dyhead_jax.contract.compiling import quick_flags

os.environ["XLA_FLAGS"] = " ".join([*quick_flags(devices=8), os.environ.get("XLA_FLAGS", "")])
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parent.parent / ".jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"  # programs say no line of their source: a tenth less of tracing

import jax

gc.set_threshold(20_000, 10, 10)  # tracing makes many objects that live: look at them less often
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_collection_modifyitems(items):
    """Files with long tests come first, those of whole commands (in tests/ itself) before all: none should begin when
    the other processes have nothing left to do."""
    long = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: (item.path not in long, len(item.path.parts)))


pytest_plugins = ["tests.parity.reporting"]  # which golden files were compared
