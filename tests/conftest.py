"""Strict test mode: warnings are errors (pyproject), rank promotion too, eight CPU devices, a shared compile cache.

Most of the time goes into compilation, as programs are many and small: LLVM does not optimise, and up to jaxlib 0.10,
which has a choice, XLA emits fusions in the older way, which compiles faster. That needs programs in one piece: split
over threads and not optimised, the gradient of a dynamic ReLU comes out wrong, which `tests/parity/test_b_parts.py`
notices. XLA_FLAGS of the environment come last and win.
"""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ["XLA_FLAGS"] = " ".join(
    [
        "--xla_force_host_platform_device_count=8",
        "--xla_backend_optimization_level=0",
        # later versions end at a flag that they do not know
        "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
        if version("jaxlib").startswith("0.10.")
        else "",
        os.environ.get("XLA_FLAGS", ""),
    ]
)
os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(Path(__file__).resolve().parent.parent / ".jax_cache")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.3"

import jax

gc.set_threshold(20_000, 10, 10)  # tracing makes many objects that live: look at them less often
jax.config.update("jax_numpy_rank_promotion", "raise")

pytest_plugins = ["tests.parity.reporting"]  # which golden files were compared
