"""Deformable convolution, v1 (offsets) and v2 (offsets and mask), on any backend.

Coordinates: offsets are (dy, dx) in pixels of the map that is read; pixel (i, j) is the point (i, j), so a sample at
whole numbers is the pixel itself. A point (y, x) is inside where y > -1, x > -1, y < h and x < w; of its four corners
those outside the map are zero. Exactly on the rim (y = -1 or y = h) value and gradients are zero. The gradient of an
offset is that of the cell at the floor, so at whole numbers it is the right-hand derivative.

Sources: Dai et al. 2017 (v1), Zhu et al. 2019 (v2); border and gradients as in mmcv 2.2.0 `modulated_deform_conv2d`.

An offset that is NaN or infinite reads outside of the map, so it gives zero. A NaN in the mask reaches its own position
only. A NaN or infinite pixel stays in its own image and map. There it reaches, in the form "gather", the positions with
a sample among whose four corners it is, also with weight zero, and if it is one of the four pixels in the top left
corner, the positions with a sample outside of the map, which reads these with weight zero; in "windows" every position
of the tiles whose window holds it; in "dense" every position of the map.

Three forms give the same numbers for finite maps. `tap_scan` sums tap by tap over the samples of all maps at once
(`geometry`), and reads them by four row gathers each (`gather`) or by a matrix product with the whole map (`dense`).
`windows` reads all taps at once, tile by tile, by a matrix product with the window around a tile, and leaves what lies
beyond to `leftover`. `dispatch` says which form "auto" takes for which map on which backend; `calls` checks the shapes
and puts the parts together. The batch stays a batching dimension throughout, so a sharded batch needs no communication,
except that `windows` asks how many positions of an image have samples beyond their windows.
"""

from collections.abc import Sequence

import jax

from dyhead_jax.ops.deform_conv.calls import Call, deform_conv_calls
from dyhead_jax.ops.deform_conv.dispatch import FORMS as IMPLEMENTATIONS

__all__ = ["IMPLEMENTATIONS", "Call", "deform_conv", "deform_conv_calls", "deform_conv_levels"]


def deform_conv(
    x: jax.Array,
    offsets: jax.Array,
    mask: jax.Array | None,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    implementation: str = "auto",
) -> jax.Array:
    """Deformable convolution of one map.

    x: (b, h, w, c_in); offsets: (b, h_out, w_out, g*k, 2) as (dy, dx), taps row-major inside each of the g deformable
    groups; mask: (b, h_out, w_out, g*k), or None for v1; kernel: (kh, kw, c_in // groups, c_out); bias: (c_out,).
    g follows from the offsets and must divide c_in. Coordinates are at least float32 whatever the dtype of x; the sum
    over taps is float32 or wider; the result (b, h_out, w_out, c_out) has the dtype of x.
    implementation: one of IMPLEMENTATIONS, or "auto", the fastest one for each map on the backend that is traced for
    (`ops.backend`); all give the same numbers where x is finite. A map without pixels reads as zeros.
    Raises ValueError naming the axis when shapes do not fit.
    """
    masks = None if mask is None else [mask]
    return deform_conv_levels(
        [x],
        [offsets],
        masks,
        kernel,
        bias,
        stride=stride,
        padding=padding,
        dilation=dilation,
        groups=groups,
        implementation=implementation,
    )[0]


def deform_conv_levels(
    maps: Sequence[jax.Array],
    offsets: Sequence[jax.Array],
    masks: Sequence[jax.Array] | None,
    kernel: jax.Array,
    bias: jax.Array | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    implementation: str = "auto",
) -> list[jax.Array]:
    """The same kernel on several maps at once; arguments as in `deform_conv`, with one x, offsets and mask a map.

    Equal to calling `deform_conv` for each map, but with one loop over the taps for all maps of a form.
    """
    call = Call(range(len(maps)), offsets, masks, kernel, bias, stride, padding, dilation)
    return deform_conv_calls(maps, [call], groups=groups, implementation=implementation)[0]
