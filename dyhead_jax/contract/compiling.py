"""Flags of XLA for small programs that run once on a CPU, where most of the time goes into compilation."""

from importlib.metadata import version


def quick_flags(devices: int) -> list[str]:
    """For XLA_FLAGS, before JAX starts: `devices` devices, and programs that LLVM does not optimise.

    Up to jaxlib 0.10 (later versions end at the unknown flag) fusions are emitted in the older way,
    which compiles several times faster. That needs programs in one piece: split over threads and not optimised, the
    gradient of a dynamic ReLU comes out wrong, which `tests/parity/test_b_parts.py` notices.
    """
    flags = [f"--xla_force_host_platform_device_count={devices}", "--xla_backend_optimization_level=0"]
    if version("jaxlib").startswith("0.10."):
        flags += ["--xla_cpu_use_fusion_emitters=false", "--xla_cpu_parallel_codegen_split_count=1"]
    return flags
