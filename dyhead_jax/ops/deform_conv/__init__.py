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
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.ops.deform_conv import dispatch, geometry
from dyhead_jax.ops.deform_conv.tap_scan import Plan, tap_loop
from dyhead_jax.ops.deform_conv.tiles import grid_of
from dyhead_jax.ops.deform_conv.windows import windowed

IMPLEMENTATIONS = dispatch.FORMS


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
    call = Call(range(len(maps)), offsets, masks, kernel, bias, stride, padding, dilation)
    return deform_conv_calls(maps, [call], groups=groups, implementation=implementation)[0]


class Call(NamedTuple):
    """A kernel and the maps that it reads, by their index; the other fields as in `deform_conv`, offsets and masks one
    a map that is read."""

    levels: Sequence[int]
    offsets: Sequence[jax.Array]
    masks: Sequence[jax.Array] | None
    kernel: jax.Array
    bias: jax.Array | None = None
    stride: int | tuple[int, int] = 1
    padding: int | tuple[int, int] = 0
    dilation: int | tuple[int, int] = 1


def deform_conv_calls(
    maps: Sequence[jax.Array], calls: Sequence[Call], *, groups: int = 1, implementation: str = "auto"
) -> list[list[jax.Array]]:
    """Several kernels on the same maps: for each call what `deform_conv_levels` gives for the maps that it reads.

    Where a form reads from a table of all maps, all calls read the same one, and add to one gradient of it.
    Raises ValueError, besides that, where calls differ in their number of deformable groups.
    """
    for call in calls:
        for i, level in enumerate(call.levels):
            _check(maps[level], call.offsets[i], None if call.masks is None else call.masks[i], call, groups, level)
    if len(found := {_deform_groups(call) for call in calls}) > 1:
        raise ValueError(f"deform_conv: calls with {', '.join(map(str, sorted(found)))} deformable groups")
    forms = dispatch.choose(implementation, [x.shape for x in maps])

    results: list[dict[int, jax.Array]] = [{} for _ in calls]
    for form in dict.fromkeys(forms):
        here = [level for level, name in enumerate(forms) if name == form]
        parts = [(n, part) for n, call in enumerate(calls) if (part := _only(call, here)).levels]
        read, own = [maps[level] for level in here], [part for _, part in parts]
        if form == "windows":
            sums = [_windowed(read, part, groups) for part in own]
        else:
            sums = _tap_loop(read, own, groups, form, implementation)
        for (n, part), out in zip(parts, sums, strict=True):
            if part.bias is not None:
                out = out + part.bias.astype(out.dtype).reshape(1, 1, -1)
            out = out.astype(read[0].dtype)
            sizes = [offsets.shape[1:3] for offsets in part.offsets]
            # a split's gradient is one concatenation, that of slices a sum of padded maps
            pieces = jnp.split(out, np.cumsum([h * w for h, w in sizes])[:-1], axis=1)
            for level, (h, w), piece in zip(part.levels, sizes, pieces, strict=True):
                results[n][here[level]] = piece.reshape(out.shape[0], h, w, out.shape[2])
    return [[found[level] for level in call.levels] for call, found in zip(calls, results, strict=True)]


def _windowed(maps: Sequence[jax.Array], call: Call, groups: int) -> jax.Array:
    maps = [maps[level] for level in call.levels]
    layouts = _layouts(geometry.places_of(maps), call)
    stride, padding, dilation = _pair(call.stride), _pair(call.padding), _pair(call.dilation)
    grids = [grid_of(layout, call.kernel.shape[:2], stride, padding, dilation) for layout in layouts]
    return windowed(grids, layouts, groups, _deform_groups(call), maps, *_operands(call, layouts))


def _tap_loop(
    maps: Sequence[jax.Array], calls: Sequence[Call], groups: int, form: str, implementation: str
) -> list[jax.Array]:
    places = geometry.places_of(maps)
    plans, kernels = [], []
    for call in calls:
        layouts = _layouts([places[level] for level in call.levels], call)
        samples = maps[0].shape[0] * sum(layout.positions for layout in layouts)
        size = samples * maps[0].shape[3] * jnp.promote_types(maps[0].dtype, jnp.float32).itemsize
        plans.append(Plan(dispatch.plan(implementation, form, size), layouts))
        kernels.append(_operands(call, layouts))
    return tap_loop(tuple(plans), places, groups, _deform_groups(calls[0]), maps, kernels)


def _only(call: Call, levels: Sequence[int]) -> Call:
    """Of the call what reads the maps among `levels`, as a call on these maps alone."""
    keep = [i for i, level in enumerate(call.levels) if level in levels]
    masks = None if call.masks is None else [call.masks[i] for i in keep]
    new = [levels.index(call.levels[i]) for i in keep]
    return call._replace(levels=new, offsets=[call.offsets[i] for i in keep], masks=masks)


def _layouts(places: Sequence[geometry.Place], call: Call) -> tuple[geometry.Layout, ...]:
    return geometry.layouts_of(places, [(offsets.shape[1], offsets.shape[2]) for offsets in call.offsets])


def _operands(call: Call, layouts: Sequence[geometry.Layout]) -> tuple[Any, ...]:
    """y, x, mask (or None), each (k, b, g, p), and the kernel by tap."""
    deform_groups, size = _deform_groups(call), call.kernel.shape[:2]
    steps = _pair(call.stride), _pair(call.padding), _pair(call.dilation)
    y, x = geometry.points(layouts, call.offsets, size, *steps, deform_groups)
    mask = None
    if call.masks is not None:
        mask = geometry.by_tap([v[..., None] for v in call.masks], deform_groups)[..., 0].astype(y.dtype)
    return y, x, mask, call.kernel.reshape(size[0] * size[1], *call.kernel.shape[2:])


def _deform_groups(call: Call) -> int:
    return call.offsets[0].shape[3] // (call.kernel.shape[0] * call.kernel.shape[1])


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else (value[0], value[1])


def _check(x: jax.Array, offsets: jax.Array, mask: jax.Array | None, call: Call, groups: int, level: int) -> None:
    """Raises ValueError naming the first axis that does not fit."""
    kernel, bias = call.kernel, call.bias
    stride, padding, dilation = _pair(call.stride), _pair(call.padding), _pair(call.dilation)
    where = f"deform_conv (map {level})"
    for name, array, rank in (("x", x, 4), ("offsets", offsets, 5), ("kernel", kernel, 4)):
        if array.ndim != rank:
            raise ValueError(f"{where}: {name} has shape {array.shape}, expected {rank} axes")
    taps = kernel.shape[0] * kernel.shape[1]
    out = tuple(
        (x.shape[1 + i] + 2 * padding[i] - dilation[i] * (kernel.shape[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    facts: list[tuple[str, Any, Any]] = [
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
