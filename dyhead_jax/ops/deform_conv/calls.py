"""Several deformable convolutions on the same maps: shapes checked, maps sorted by form, each form run once."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.ops.deform_conv import dispatch, geometry, tiles
from dyhead_jax.ops.deform_conv.tap_scan import KernelScan, scan_taps
from dyhead_jax.ops.deform_conv.tiles import grid_of
from dyhead_jax.ops.deform_conv.windows import windowed


class Call(NamedTuple):
    """A kernel and the maps that it reads. levels: indices of these maps; offsets, masks: one for each of them; the
    other fields as in `deform_conv`."""

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
    """Several kernels on the same maps: for each call what `deform_conv_levels` returns for the maps that it reads.

    Where a form reads from a table of all maps, all calls share the table and its gradient.
    Raises ValueError as `deform_conv` does, and where calls differ in their number of deformable groups.
    """
    for call in calls:
        for i, level in enumerate(call.levels):
            _check(maps[level], call.offsets[i], None if call.masks is None else call.masks[i], call, groups, level)
    if len(deform_groups := {_deform_groups(call) for call in calls}) > 1:
        raise ValueError(f"deform_conv: calls with {', '.join(map(str, sorted(deform_groups)))} deformable groups")
    forms = dispatch.choose(implementation, [x.shape for x in maps])

    results: list[dict[int, jax.Array]] = [{} for _ in calls]
    for result, call in zip(results, calls, strict=True):
        result |= _of_empty_maps(maps, call)
    for form in dict.fromkeys(forms):
        levels = [level for level, name in enumerate(forms) if name == form and maps[level].size]
        parts = [(n, part) for n, call in enumerate(calls) if (part := _restrict(call, levels)).levels]
        if not parts:
            continue
        read, own = [maps[level] for level in levels], [part for _, part in parts]
        if form == "windows":
            sums = [_windowed(read, part, groups) for part in own]
        else:
            sums = _scan_taps(read, own, groups, form)
        for (n, part), out in zip(parts, sums, strict=True):
            if part.bias is not None:
                out = out + part.bias.astype(out.dtype).reshape(1, 1, -1)
            out = out.astype(read[0].dtype)
            sizes = [offsets.shape[1:3] for offsets in part.offsets]
            # the gradient of a split is one concatenation, that of slices a sum of padded maps
            pieces = jnp.split(out, np.cumsum([h * w for h, w in sizes])[:-1], axis=1)
            for level, (h, w), piece in zip(part.levels, sizes, pieces, strict=True):
                results[n][levels[level]] = piece.reshape(out.shape[0], h, w, out.shape[2])
    return [[result[level] for level in call.levels] for call, result in zip(calls, results, strict=True)]


def _of_empty_maps(maps: Sequence[jax.Array], call: Call) -> dict[int, jax.Array]:
    """The results of the maps without pixels, which read as zeros, and results without pixels, by level."""
    found = {}
    for level, offsets in zip(call.levels, call.offsets, strict=True):
        if not maps[level].size or not offsets.size:
            out = jnp.zeros((*offsets.shape[:3], call.kernel.shape[3]), maps[level].dtype)
            found[level] = out if call.bias is None else out + call.bias.astype(out.dtype).reshape(1, 1, 1, -1)
    return found


def _windowed(maps: Sequence[jax.Array], call: Call, groups: int) -> jax.Array:
    maps = [maps[level] for level in call.levels]
    layouts = _layouts(geometry.places_of(maps), call)
    stride, padding, dilation = _pair(call.stride), _pair(call.padding), _pair(call.dilation)
    choices = tuple(
        tuple(grid_of(layout, call.kernel.shape[:2], stride, padding, dilation, margin) for layout in layouts)
        for margin in tiles.MARGINS
    )
    return windowed(choices, layouts, groups, _deform_groups(call), maps, *_operands(call, layouts))


def _scan_taps(maps: Sequence[jax.Array], calls: Sequence[Call], groups: int, form: str) -> list[jax.Array]:
    places = geometry.places_of(maps)
    scans, kernels = [], []
    for call in calls:
        layouts = _layouts([places[level] for level in call.levels], call)
        samples = maps[0].shape[0] * sum(layout.positions for layout in layouts)
        size = samples * maps[0].shape[3] * jnp.promote_types(maps[0].dtype, jnp.float32).itemsize
        scans.append(KernelScan(dispatch.schedule(form, size), layouts))
        kernels.append(_operands(call, layouts))
    return scan_taps(tuple(scans), places, groups, _deform_groups(calls[0]), maps, kernels)


def _restrict(call: Call, levels: Sequence[int]) -> Call:
    """The part of the call that reads the maps `levels`, as a call on a list of these maps alone."""
    keep = [i for i, level in enumerate(call.levels) if level in levels and call.offsets[i].size]
    masks = None if call.masks is None else [call.masks[i] for i in keep]
    new = [levels.index(call.levels[i]) for i in keep]
    return call._replace(levels=new, offsets=[call.offsets[i] for i in keep], masks=masks)


def _layouts(places: Sequence[geometry.Place], call: Call) -> tuple[geometry.Layout, ...]:
    return geometry.layouts_of(places, [(offsets.shape[1], offsets.shape[2]) for offsets in call.offsets])


def _operands(call: Call, layouts: Sequence[geometry.Layout]) -> tuple[Any, ...]:
    """y, x and mask (or None), (k, b, g, p) each, and the kernel, (k, c_in // groups, c_out)."""
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
