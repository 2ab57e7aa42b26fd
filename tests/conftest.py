"""Strict test mode: warnings are errors (pyproject), rank promotion too, eight CPU devices, a shared compile cache.

Most of the time goes into compilation: LLVM gives its lowest effort that keeps programs fast. XLA_FLAGS of the
environment come last and win.
"""

import os
from pathlib import Path

os.environ["XLA_FLAGS"] = (
    "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=1 " + os.environ.get("XLA_FLAGS", "")
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parent.parent / ".jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax

jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["tests.parity.reporting"]  # which golden files were compared
