"""Which form `deform_conv` takes for which map, by the backend: the tables behind `implementation="auto"`."""

from collections.abc import Sequence
from typing import NamedTuple

from dyhead_jax.ops import backend
from dyhead_jax.ops.backend import Backend

FORMS = ("gather", "dense", "windows")
# Maps of at most this many pixels are read by "dense", larger ones by the form in LARGE. TPU, ms forward + backward: at
# 13x21 "dense" .080 and narrow "windows" .108; at 25x42 .465 and .296; at 50x84 4.918 and .891, "gather" 3.206. Not
# measured: libtpu 0.0.50.1's estimates for a v5e, 256 channels, bfloat16, November 2026, with a 64th of the positions
# beyond their windows (benchmarks/results/tpu_forms_v5e.md).
DENSE_PIXELS = {Backend.CPU: 0, Backend.GPU: 0, Backend.TPU: 467}
LARGE = {Backend.CPU: "gather", Backend.GPU: "gather", Backend.TPU: "windows"}

# On CPUs, bytes of one tap's samples that are processed at a time, so that they stay in the cache; 0 is all at once.
# Measured on two cores of an AMD EPYC (L2 1 MiB each, L3 32 MiB): forward + backward of 256 channels at 100x152 takes
# 7.9 times as long as a plain convolution when processed all at once, 5.4 times in pieces of 1 MiB, 5.6 of 2 MiB, 5.9
# of 4 MiB (benchmarks/results/cpu_forms.md).
PIECE = 2 * 2**20
# On CPUs, products are stored before they are summed over channels: 4.8 in place of 5.6 in the same measurement.
STORE_PRODUCTS = True


class Schedule(NamedTuple):
    """How the samples of a kernel are processed. form: a key of `tap_scan.FORMS`; pieces: the number of pieces that the
    positions are cut into; store_products: see STORE_PRODUCTS."""

    form: str
    pieces: int
    store_products: bool


def choose(implementation: str, shapes: Sequence[tuple[int, ...]]) -> list[str]:
    """The form for each of the maps with these shapes (b, h, w, c): the one that is named, or that of the backend.

    Raises ValueError where `implementation` is neither a form nor "auto".
    """
    if implementation in FORMS:
        return [implementation] * len(shapes)
    if implementation != "auto":
        raise ValueError(f"implementation is {implementation!r}; it may be {', '.join(('auto', *FORMS))}")
    target = backend.current()
    return ["dense" if shape[1] * shape[2] <= DENSE_PIXELS[target] else LARGE[target] for shape in shapes]


def schedule(form: str, size: int) -> Schedule:
    """The schedule for positions whose samples of one tap take `size` bytes, on the backend that is traced for."""
    if backend.current() is not Backend.CPU:
        return Schedule(form, pieces=1, store_products=False)
    whole = form == "dense" or not PIECE  # "dense" multiplies with whole maps
    return Schedule(form, 1 if whole else max(1, round(size / PIECE)), STORE_PRODUCTS)
