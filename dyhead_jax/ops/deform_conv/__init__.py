"""Deformable convolution, v1 (offsets) and v2 (offsets and mask), on any backend.

Coordinates: offsets are (dy, dx) in pixels of the map read; pixel (i, j) sits at the point (i, j), so a sample on
integers is the pixel itself. A point (y, x) is inside where y > -1, x > -1, y < h and x < w; each of its four corners
that lies outside the map is zero. On the rim (y = -1 or y = h exactly) value and gradients are zero. The gradient
of an offset uses the floor cell, so on an integer it is the right-hand cell's.

Sources: Dai et al. 2017 (v1), Zhu et al. 2019 (v2); border and gradients as in mmcv 2.2.0 `modulated_deform_conv2d`.

How it works: `tap_loop` adds up tap by tap, over the samples of all maps at once (`geometry`), and reads them as `taps`
(four row gathers) or as `hat` (a matrix product with the whole map). `windows` reads all taps at once, tile by tile, as
a matrix product with the window around a tile, and leaves to `far` what lies beyond. `choice` says which of the three
"auto" takes for which map on which backend. The batch stays a batching dimension throughout, so a sharded batch needs
no communication, but that `windows` asks all images whether anything lies beyond.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import choice, geometry
from dyhead_jax.ops.deform_conv.tap_loop import tap_loop
from dyhead_jax.ops.deform_conv.tiles import grid_of
from dyhead_jax.ops.deform_conv.windows import windowed

IMPLEMENTATIONS = choice.FORMS


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
    implementation: one of IMPLEMENTATIONS, "auto", or "auto_cpu", "auto_gpu", "auto_tpu" for what "auto" is there (to
    compile for another machine); all give the same numbers.
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
    """The same kernel on several maps at once, in one loop over its taps; arguments as `deform_conv`, one a map.

    Equal to calling `deform_conv` for each map, with one loop for all maps of a form in place of one a map.
    """
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    taps = kernel.shape[0] * kernel.shape[1]
    for level, x in enumerate(maps):
        mask = None if masks is None else masks[level]
        _check(x, offsets[level], mask, kernel, bias, stride, padding, dilation, groups, level)
    deform_groups = offsets[0].shape[3] // taps
    forms = choice.choose(implementation, [x.shape for x in maps])

    results: dict[int, jax.Array] = {}
    for form in dict.fromkeys(forms):
        chosen = [level for level, name in enumerate(forms) if name == form]
        outputs = [(offsets[i].shape[1], offsets[i].shape[2]) for i in chosen]
        layouts = geometry.layouts_of([maps[i] for i in chosen], outputs)
        y, x_ = geometry.points(
            layouts, [offsets[i] for i in chosen], kernel.shape[:2], stride, padding, dilation, deform_groups
        )
        blend = None
        if masks is not None:
            blend = geometry.by_tap([masks[i][..., None] for i in chosen], deform_groups)[..., 0].astype(y.dtype)
        flat = kernel.reshape(taps, *kernel.shape[2:])
        size = y.shape[1] * y.shape[3] * maps[0].shape[3] * jnp.promote_types(maps[0].dtype, jnp.float32).itemsize
        operands = [maps[i] for i in chosen], y, x_, blend, flat
        if form == "windows":
            grids = [grid_of(layout, kernel.shape[:2], stride, padding, dilation) for layout in layouts]
            out: Any = windowed(grids, layouts, groups, deform_groups, *operands)
        else:
            plan = choice.plan(implementation, form, size)
            out = tap_loop(plan, layouts, groups, deform_groups, *operands)
        if bias is not None:
            out = out + bias.astype(out.dtype).reshape(1, 1, -1)
        out = out.astype(maps[0].dtype)
        # a split's gradient is one concatenation, that of slices a sum of padded maps
        pieces = jnp.split(out, [layout.position for layout in layouts[1:]], axis=1)
        for level, layout, piece in zip(chosen, layouts, pieces, strict=True):
            results[level] = piece.reshape(out.shape[0], layout.out_height, layout.out_width, out.shape[2])
    return [results[level] for level in range(len(maps))]


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(x, offsets, mask, kernel, bias, stride, padding, dilation, groups, level) -> None:
    """Raises ValueError naming the first axis that does not fit."""
    where = f"deform_conv (map {level})"
    for name, array, rank in (("x", x, 4), ("offsets", offsets, 5), ("kernel", kernel, 4)):
        if array.ndim != rank:
            raise ValueError(f"{where}: {name} has shape {array.shape}, expected {rank} axes")
    taps = kernel.shape[0] * kernel.shape[1]
    out = tuple(
        (x.shape[1 + i] + 2 * padding[i] - dilation[i] * (kernel.shape[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    facts = [
        ("axis 0 (batch) of offsets", offsets.shape[0], x.shape[0]),
        ("axis 1 (rows) of offsets", offsets.shape[1], out[0]),
        ("axis 2 (columns) of offsets", offsets.shape[2], out[1]),
        ("axis 4 (dy, dx) of offsets", offsets.shape[4], 2),
        ("axis 2 (input channels a group) of kernel, times groups", kernel.shape[2] * groups, x.shape[3]),
    ]
    if mask is not None:
        facts.append(("shape of mask", tuple(mask.shape), tuple(offsets.shape[:4])))
    if bias is not None:
        facts.append(("shape of bias", tuple(bias.shape), (kernel.shape[3],)))
    for name, got, expected in facts:
        if got != expected:
            raise ValueError(f"{where}: {name} is {got}, expected {expected}")
    if offsets.shape[3] == 0 or offsets.shape[3] % taps:
        raise ValueError(f"{where}: axis 3 of offsets is {offsets.shape[3]}, not a multiple of the {taps} kernel taps")
    deform_groups = offsets.shape[3] // taps
    if x.shape[3] % deform_groups:
        raise ValueError(f"{where}: {deform_groups} deformable groups do not divide the {x.shape[3]} channels of x")
    if kernel.shape[3] % groups:
        raise ValueError(f"{where}: groups {groups} do not divide the {kernel.shape[3]} output channels of kernel")
