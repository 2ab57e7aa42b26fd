"""Which form `deform_conv` takes for which map: the table behind `implementation="auto"`."""

from collections.abc import Sequence
from typing import NamedTuple

import jax

from dyhead_jax.ops import backend

FORMS = ("taps", "hat", "windows")
BACKENDS = ("cpu", "gpu", "tpu")
# Maps of at most so many pixels are read by `hat`, larger ones by the form beside it. TPU: with gradients the two take
# as long at 25x42 (.465 ms), at 13x21 `hat` .080 and `windows` .169, at 50x84 4.918 and 1.371, `taps` 3.206. Not
# measured: libtpu 0.0.50.1's estimates for a v5e, 256 channels, bfloat16, November 2026, with a 64th of the positions
# beyond their windows; `python -m dyhead_jax.benchmark tpu-forms` makes them.
HAT_PIXELS = {"cpu": 0, "gpu": 0, "tpu": 1050}
LARGE = {"cpu": "taps", "gpu": "taps", "tpu": "windows"}

# On CPUs, bytes of a tap's samples that are worked on at a time, so that they stay in the cache; 0 is all at once.
# Measured on two cores of an AMD EPYC (L2 1 MiB each, L3 32 MiB): forward + backward of 256 channels at 100x152 takes
# 7.9 times a plain convolution all at once, 5.4 with 1 MiB, 5.6 with 2, 5.9 with 4 (benchmarks/results/cpu_forms.md).
PIECE = 2 * 2**20
# On CPUs, products that are summed over channels are stored first: 4.8 in place of 5.6 there.
APART = True


class Plan(NamedTuple):
    """How maps are worked off. form: a key of `tap_loop.FORMS`; pieces: how many the positions are cut into; apart: see
    APART."""

    form: str
    pieces: int
    apart: bool


def choose(implementation: str, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """The form for each of the maps with these shapes (b, h, w, c).

    Raises ValueError where `implementation` is none of the forms, "auto", or "auto_" and a backend.
    """
    if implementation in FORMS:
        return [implementation] * len(shapes)
    backend = _backend(implementation)
    return ["hat" if shape[1] * shape[2] <= HAT_PIXELS[backend] else LARGE[backend] for shape in shapes]


def plan(implementation: str, form: str, size: int) -> Plan:
    """The plan for positions whose samples of one tap are `size` bytes. A form that is named, and "auto", is worked off
    as on a CPU where `forms` means that."""
    cpu = implementation == "auto_cpu" or (not implementation.startswith("auto_") and backend.auto() == "shifted")
    if not cpu:
        return Plan(form, pieces=1, apart=False)
    whole = form == "hat" or not PIECE  # `hat` multiplies with whole maps
    return Plan(form, 1 if whole else max(1, round(size / PIECE)), APART)


def _backend(implementation: str) -> str:
    backend = jax.default_backend() if implementation == "auto" else implementation.removeprefix("auto_")
    backend = {"cuda": "gpu", "rocm": "gpu"}.get(backend, backend)
    if implementation != "auto" and (not implementation.startswith("auto_") or backend not in BACKENDS):
        known = ["auto", *(f"auto_{name}" for name in BACKENDS), *FORMS]
        raise ValueError(f"implementation is {implementation!r}; it may be {', '.join(known)}")
    return backend if backend in BACKENDS else "gpu"
