"""Deformable convolution, v1 (offsets) and v2 (offsets and mask), on any backend.

Coordinates: offsets are (dy, dx) in pixels of the map read; pixel (i, j) sits at the point (i, j), so a sample on
integers is the pixel itself. A point (y, x) is inside where y > -1, x > -1, y < h and x < w; each of its four corners
that lies outside the map is zero. On the rim (y = -1 or y = h exactly) value and gradients are zero. The gradient
of an offset uses the floor cell, so on an integer it is the right-hand cell's.

Sources: Dai et al. 2017 (v1), Zhu et al. 2019 (v2); border and gradients as in mmcv 2.2.0 `modulated_deform_conv2d`.

How it works. All maps that a kernel is applied to (one, or every level of a pyramid) are laid out as rows of one table,
each map with a border of zeros of one pixel, which replaces validity tests of corners. One loop runs over the kernel's
taps: gather four rows a sample, blend, multiply with that tap's matrix. Nothing of size taps x samples x channels is
ever stored: the backward pass is written by hand, gathers again, and scatters into the table in float32.
The batch stays a batching dimension of every gather, so a sharded batch needs no communication.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

IMPLEMENTATIONS = ("taps",)


class Layout(NamedTuple):
    """Where the samples of one output level read: size of the source map, its first row in the table, output size."""

    height: int
    width: int
    start: int
    out_height: int
    out_width: int


class Samples(NamedTuple):
    """Table rows and blend weights of all samples of one tap, each (b, g, p)."""

    row: jax.Array  # of the top-left corner
    pitch: jax.Array  # rows from a pixel to the one below it, (p,)
    fy: jax.Array
    fx: jax.Array
    mask: jax.Array  # modulation; 0 outside the map
    inside: jax.Array


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
    implementation: one of IMPLEMENTATIONS or "auto"; all give the same numbers.
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

    Equal to calling `deform_conv` for each map, with one gather a tap in place of one a tap and map.
    """
    if implementation not in ("auto", *IMPLEMENTATIONS):
        raise ValueError(f"implementation is {implementation!r}; it may be 'auto', {', '.join(IMPLEMENTATIONS)}")
    stride, padding, dilation = _pair(stride), _pair(padding), _pair(dilation)
    taps = kernel.shape[0] * kernel.shape[1]
    for level, x in enumerate(maps):
        mask = None if masks is None else masks[level]
        _check(x, offsets[level], mask, kernel, bias, stride, padding, dilation, groups, level)
    deform_groups = offsets[0].shape[3] // taps

    layouts, start = [], 0
    for x, offset in zip(maps, offsets, strict=True):
        layouts.append(Layout(x.shape[1], x.shape[2], start, offset.shape[1], offset.shape[2]))
        start += (x.shape[1] + 2) * (x.shape[2] + 2)
    y, x_ = _positions(layouts, offsets, kernel.shape[:2], stride, padding, dilation, deform_groups)
    blend = None
    if masks is not None:
        blend = _by_tap([m[..., None] for m in masks], deform_groups)[..., 0].astype(y.dtype)
    flat = kernel.reshape(taps, *kernel.shape[2:])
    out: Any = _tap_loop(tuple(layouts), groups, deform_groups, list(maps), y, x_, blend, flat)
    if bias is not None:
        out = out + bias.astype(out.dtype).reshape(1, 1, -1)
    out = out.astype(maps[0].dtype)
    ends = np.cumsum([layout.out_height * layout.out_width for layout in layouts])
    pieces = jnp.split(out, ends[:-1].tolist(), axis=1)
    return [
        piece.reshape(out.shape[0], layout.out_height, layout.out_width, out.shape[2])
        for piece, layout in zip(pieces, layouts, strict=True)
    ]


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


def _table(maps: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """All maps with a zero border, as rows: (b, g, rows, c // g)."""
    rows = [jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))).reshape(x.shape[0], -1, x.shape[3]) for x in maps]
    table = jnp.concatenate(rows, axis=1)
    batch, count, channels = table.shape
    return table.reshape(batch, count, deform_groups, channels // deform_groups).transpose(0, 2, 1, 3)


def _maps(table: jax.Array, layouts: Sequence[Layout], like: Sequence[jax.Array]) -> list[jax.Array]:
    """The transpose of `_table`: rows back to maps, without the border."""
    rows = table.transpose(0, 2, 1, 3).reshape(table.shape[0], table.shape[2], -1)
    maps = []
    for layout, x in zip(layouts, like, strict=True):
        h, w = layout.height + 2, layout.width + 2
        piece = rows[:, layout.start : layout.start + h * w].reshape(rows.shape[0], h, w, -1)
        maps.append(piece[:, 1:-1, 1:-1].astype(x.dtype))
    return maps


def _by_tap(per_level: Sequence[jax.Array], deform_groups: int) -> jax.Array:
    """[(b, h, w, g*k, n)] to (k, b, g, p, n) over the positions p of all levels."""
    flat = jnp.concatenate([v.reshape(v.shape[0], -1, *v.shape[3:]) for v in per_level], axis=1)
    batch, positions, _, last = flat.shape
    return flat.reshape(batch, positions, deform_groups, -1, last).transpose(3, 0, 2, 1, 4)


def _positions(layouts, offsets, kernel_size, stride, padding, dilation, deform_groups):
    """Sampling points y and x, each (k, b, g, p), in pixels of the map that a sample reads."""
    offset = _by_tap(offsets, deform_groups)
    offset = offset.astype(jnp.promote_types(offset.dtype, jnp.float32))  # bfloat16 has no integers above 256
    base = []
    for layout in layouts:
        i, j = np.mgrid[: layout.out_height, : layout.out_width].reshape(2, -1)
        ky, kx = np.mgrid[: kernel_size[0], : kernel_size[1]].reshape(2, -1, 1)
        base.append((i * stride[0] - padding[0] + ky * dilation[0], j * stride[1] - padding[1] + kx * dilation[1]))
    y, x = (np.concatenate([b[axis] for b in base], axis=1)[:, None, None, :] for axis in range(2))
    return offset[..., 0] + y.astype(offset.dtype), offset[..., 1] + x.astype(offset.dtype)


def _per_position(layouts: Sequence[Layout], values: Sequence[int], dtype) -> jax.Array:
    """One value a level, repeated over the level's positions: (1, 1, p)."""
    counts = [layout.out_height * layout.out_width for layout in layouts]
    return jnp.concatenate([jnp.full((n,), v, dtype) for n, v in zip(counts, values, strict=True)]).reshape(1, 1, -1)


def _samples(layouts: Sequence[Layout], y: jax.Array, x: jax.Array, mask: jax.Array | None) -> Samples:
    height = _per_position(layouts, [layout.height for layout in layouts], jnp.int32)
    width = _per_position(layouts, [layout.width for layout in layouts], jnp.int32)
    start = _per_position(layouts, [layout.start for layout in layouts], jnp.int32)
    inside = (y > -1) & (x > -1) & (y < height.astype(y.dtype)) & (x < width.astype(x.dtype))
    # far points would overflow the integers: bring them to the rim, where `inside` has already taken them out
    y = jnp.where(inside, y, 0.0)
    x = jnp.where(inside, x, 0.0)
    y0, x0 = jnp.floor(y), jnp.floor(x)
    pitch = width + 2
    row = start + (y0.astype(jnp.int32) + 1) * pitch + x0.astype(jnp.int32) + 1
    blend = jnp.where(inside, 1.0 if mask is None else mask, 0.0).astype(y.dtype)
    return Samples(row, pitch, y - y0, x - x0, blend, inside)


def _gather(table: jax.Array, row: jax.Array) -> jax.Array:
    """(b, g, rows, c) and (b, g, p) to (b, g, p, c); vmap keeps b and g batching dimensions of the gather."""
    return jax.vmap(jax.vmap(lambda t, i: t.at[i].get(mode="promise_in_bounds")))(table, row)


def _scatter_add(table: jax.Array, row: jax.Array, values: jax.Array) -> jax.Array:
    add = jax.vmap(jax.vmap(lambda t, i, v: t.at[i].add(v, mode="promise_in_bounds")))
    return add(table, row, values)


def _corners(s: Samples) -> list[tuple[jax.Array, jax.Array]]:
    """Rows and bilinear weights of the four corners."""
    return [
        (s.row, (1 - s.fy) * (1 - s.fx)),
        (s.row + 1, (1 - s.fy) * s.fx),
        (s.row + s.pitch, s.fy * (1 - s.fx)),
        (s.row + s.pitch + 1, s.fy * s.fx),
    ]


def _merge(v: jax.Array) -> jax.Array:
    """(b, g, p, c // g) to (b, p, c)."""
    return v.transpose(0, 2, 1, 3).reshape(v.shape[0], v.shape[2], -1)


def _divide(v: jax.Array, deform_groups: int) -> jax.Array:
    """(b, p, c) to (b, g, p, c // g)."""
    return v.reshape(v.shape[0], v.shape[1], deform_groups, -1).transpose(0, 2, 1, 3)


def _project(values: jax.Array, matrix: jax.Array, groups: int, wide) -> jax.Array:
    """values (b, p, c_in) times matrix (c_in // groups, c_out), group by group: (b, p, c_out)."""
    if groups == 1:
        return jnp.einsum("bpc,cd->bpd", values, matrix, preferred_element_type=wide)
    v = values.reshape(*values.shape[:2], groups, -1)
    m = matrix.reshape(matrix.shape[0], groups, -1)
    return jnp.einsum("bpnc,cnd->bpnd", v, m, preferred_element_type=wide).reshape(*values.shape[:2], -1)


def _project_transposed(g: jax.Array, matrix: jax.Array, groups: int, wide):
    """For g (b, p, c_out), gradients of `_project`: of its values, and a function of the values to that of matrix."""
    if groups == 1:
        d_values = jnp.einsum("bpd,cd->bpc", g, matrix, preferred_element_type=wide)
        return d_values, lambda v: jnp.einsum("bpc,bpd->cd", v, g, preferred_element_type=wide)
    by_group = g.reshape(*g.shape[:2], groups, -1)
    m = matrix.reshape(matrix.shape[0], groups, -1)
    d_values = jnp.einsum("bpnd,cnd->bpnc", by_group, m, preferred_element_type=wide).reshape(*g.shape[:2], -1)

    def d_matrix(values):
        v = values.reshape(*values.shape[:2], groups, -1)
        return jnp.einsum("bpnc,bpnd->cnd", v, by_group, preferred_element_type=wide).reshape(matrix.shape)

    return d_values, d_matrix


def _zeros(table: jax.Array, shape: tuple[int, ...], dtype) -> jax.Array:
    """Zeros taken from the table's border, so that inside shard_map they vary over devices as a loop carry must."""
    return jnp.broadcast_to(table[:1, :1, :1, :1].reshape((1,) * len(shape)).astype(dtype), shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _tap_loop(layouts, groups, deform_groups, maps, y, x, mask, kernel):
    """Sum over taps. maps as `deform_conv_levels`; y, x, mask (k, b, g, p); kernel (k, c_in // groups, c_out).

    Returns (b, p, c_out), float32 or wider.
    """
    table = _table(maps, deform_groups)
    wide = jnp.promote_types(table.dtype, jnp.float32)

    def tap(total, inputs):
        y, x, mask, matrix = inputs
        s = _samples(layouts, y, x, mask)
        value: Any = sum((w * s.mask)[..., None].astype(wide) * _gather(table, row) for row, w in _corners(s))
        return total + _project(_merge(value).astype(table.dtype), matrix.astype(table.dtype), groups, wide), None

    zero = _zeros(table, (table.shape[0], y.shape[3], kernel.shape[2]), wide)
    return jax.lax.scan(tap, zero, (y, x, mask, kernel))[0]


def _tap_loop_fwd(layouts, groups, deform_groups, maps, y, x, mask, kernel):
    # the maps live on as the block's input; the table is cheaper to make again than to keep
    return _tap_loop(layouts, groups, deform_groups, maps, y, x, mask, kernel), (maps, y, x, mask, kernel)


def _tap_loop_bwd(layouts, groups, deform_groups, residuals, g):
    maps, y, x, mask, kernel = residuals
    table = _table(maps, deform_groups)
    wide = jnp.promote_types(table.dtype, jnp.float32)
    g = g.astype(table.dtype)

    def tap(d_table, inputs):
        y, x, mask, matrix = inputs
        s = _samples(layouts, y, x, mask)
        d_value, d_matrix_of = _project_transposed(g, matrix.astype(table.dtype), groups, wide)
        d_value = _divide(d_value, deform_groups)

        def corner(carry, inputs):  # one after the other, so that only one corner's rows are alive
            d_table, value = carry
            row, weight = inputs
            weight = (weight * s.mask)[..., None].astype(wide)
            pixels = _gather(table, row)
            dot = jnp.sum(d_value * pixels, axis=-1).astype(y.dtype)
            return (_scatter_add(d_table, row, weight * d_value), value + weight * pixels), dot

        rows, weights = (jnp.stack(v) for v in zip(*_corners(s), strict=True))
        (d_table, value), dots = jax.lax.scan(corner, (d_table, jnp.zeros_like(d_value)), (rows, weights))
        d_matrix = d_matrix_of(_merge(value).astype(table.dtype)).astype(kernel.dtype)
        top_left, top_right, low_left, low_right = dots
        d_y = s.mask * ((1 - s.fx) * (low_left - top_left) + s.fx * (low_right - top_right))
        d_x = s.mask * ((1 - s.fy) * (top_right - top_left) + s.fy * (low_right - low_left))
        d_mask = None
        if mask is not None:
            d_mask = jnp.where(s.inside, jnp.sum(weights * dots, axis=0), 0.0)
        return d_table, (d_y, d_x, d_mask, d_matrix)

    zero = _zeros(table, table.shape, wide)
    d_table, (d_y, d_x, d_mask, d_kernel) = jax.lax.scan(tap, zero, (y, x, mask, kernel))
    return _maps(d_table, layouts, maps), d_y, d_x, d_mask, d_kernel


_tap_loop.defvjp(_tap_loop_fwd, _tap_loop_bwd)
