"""What this machine has room for, for configs that fit themselves to it. Asking starts JAX's devices."""

import os

import jax


def memory() -> float:
    """Bytes that a training step may take on a device: half of what JAX may use of an accelerator, or half of the
    computer's memory where there is none. The other half is for weights, their optimiser, and what else runs."""
    device = jax.local_devices()[0]
    statistics = device.memory_stats() if device.platform != "cpu" else None
    if statistics and "bytes_limit" in statistics:
        return 0.5 * statistics["bytes_limit"]
    return 0.5 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def largest_side() -> int:
    """The longest side in pixels of an image that trains in bearable time: 640 on a CPU, else 1344, as for COCO."""
    return 640 if jax.default_backend() == "cpu" else 1344
