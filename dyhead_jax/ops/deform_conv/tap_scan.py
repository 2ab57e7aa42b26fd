"""The loop over a kernel's taps, and its gradient, for the forms "gather" and "dense".

A form is a module of four functions: `prepare` makes one table of all maps, `read` interpolates the samples of a tap,
`vjp` is the gradient of `read`, `restore` the transpose of `prepare`. A table is (b, g, rows, ...), its gradient
(b, g, rows, all other axes as one). Nothing of the size taps x samples x channels is ever stored: the backward pass
reads every sample again and accumulates the gradient in float32.

Positions may be processed in pieces, one after another, each through all taps: what a tap computes for a piece then
stays in a CPU's cache until the tap has used it.

Axis letters are those of the package's legend (`geometry`).
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import dense, dispatch, gather, geometry

FORMS: dict[str, ModuleType] = {"gather": gather, "dense": dense}


class KernelScan(NamedTuple):
    """The static part of one kernel's loop: how its samples are processed and where they read."""

    schedule: dispatch.Schedule
    layouts: tuple[geometry.Layout, ...]


class Points(NamedTuple):
    """The samples of all taps: what their positions read, and y, x and mask (or None), each (k, b, g, p)."""

    source: geometry.Source
    y: jax.Array
    x: jax.Array
    mask: jax.Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def scan_taps(scans, places, groups, deform_groups, maps, kernels):
    """For each kernel, the sum over taps of samples times the tap's matrix: (b, p, c_out), float32 or wider.

    All kernels read the same maps, so they share one table of them and one gradient of it. scans: a `KernelScan` for
    each, all of one form; places: of the maps; maps: [(b, h, w, c_in)]; kernels: for each a tuple of y, x, mask (or
    None), (k, b, g, p), and the kernel, (k, c_in // groups, c_out).
    """
    table = FORMS[scans[0].schedule.form].prepare(maps, deform_groups)
    return [_sum(scan, groups, table, kernel) for scan, kernel in zip(scans, kernels, strict=True)]


def _forward(scans, places, groups, deform_groups, maps, kernels):
    # the maps are kept anyway, as the block's input; the table is cheaper to make again than to keep
    return scan_taps(scans, places, groups, deform_groups, maps, kernels), (maps, kernels)


def _backward(scans, places, groups, deform_groups, residuals, gs):
    maps, kernels = residuals
    form = FORMS[scans[0].schedule.form]
    table = form.prepare(maps, deform_groups)
    wide = jnp.promote_types(table.dtype, jnp.float32)
    d_table = geometry.zeros(table, (*table.shape[:3], math.prod(table.shape[3:])), wide)
    d_kernels = []
    for scan, kernel, g in zip(scans, kernels, gs, strict=True):
        d_table, gradients = _sum_vjp(scan, groups, deform_groups, table, d_table, kernel, g)
        d_kernels.append(gradients)
    return form.restore(places, d_table, maps), d_kernels


scan_taps.defvjp(_forward, _backward)


def _sum(scan: KernelScan, groups: int, table: jax.Array, operands) -> jax.Array:
    """`scan_taps` of one kernel, from the table."""
    y, x, mask, kernel = operands
    form, pieces = FORMS[scan.schedule.form], scan.schedule.pieces
    wide = jnp.promote_types(table.dtype, jnp.float32)

    def piece(points: Points) -> jax.Array:
        def tap(total, inputs):
            (y, x, mask), matrix = inputs
            value = form.read(scan.layouts, table, geometry.samples(points.source, y, x, mask))
            value = geometry.join_groups(value).astype(table.dtype)
            return total + _project(value, matrix.astype(table.dtype), groups, wide), None

        zero = geometry.zeros(table, (table.shape[0], points.y.shape[3], kernel.shape[2]), wide)
        return jax.lax.scan(tap, zero, ((points.y, points.x, points.mask), kernel))[0]

    points = Points(geometry.sources(scan.layouts), y, x, mask)
    if pieces == 1:
        return piece(points)
    return geometry.uncut(jax.lax.map(piece, _cut(points, pieces)), y.shape[3], axis=1)


def _sum_vjp(scan: KernelScan, groups: int, deform_groups: int, table: jax.Array, d_table: jax.Array, operands, g):
    """The gradient of `_sum`, given that of its result, g (b, p, c_out). Returns d_table with the gradient of the table
    added, and the gradients of y, x, mask and kernel."""
    y, x, mask, kernel = operands
    form, pieces = FORMS[scan.schedule.form], scan.schedule.pieces
    wide = d_table.dtype
    g = g.astype(table.dtype)

    def piece(sums, inputs):
        points, g = inputs

        def tap(d_table, inputs):
            (y, x, mask), matrix = inputs
            s = geometry.samples(points.source, y, x, mask)
            d_value, d_matrix_of = _project_vjp(g, matrix.astype(table.dtype), groups, wide)
            d_value = geometry.split_groups(d_value, deform_groups)
            d_table, value, (d_y, d_x, d_mask) = form.vjp(
                scan.layouts, table, d_table, s, d_value, scan.schedule.store_products
            )
            d_matrix = d_matrix_of(geometry.join_groups(value).astype(table.dtype))
            return d_table, (d_matrix, (d_y, d_x, None if mask is None else d_mask))

        d_table, d_kernel = sums
        inputs = (points.y, points.x, points.mask), kernel
        d_table, (d_matrices, d_points) = jax.lax.scan(tap, d_table, inputs)
        return (d_table, d_kernel + d_matrices), d_points

    sums = d_table, geometry.zeros(table, kernel.shape, wide)
    points = Points(geometry.sources(scan.layouts), y, x, mask)
    if pieces == 1:
        (d_table, d_kernel), d_points = piece(sums, (points, g))
    else:  # g is padded with zeros, so the padding of the last piece adds nothing to the gradients
        parts = _cut(points, pieces), geometry.cut(g, pieces, axis=1, mode="constant")
        (d_table, d_kernel), d_points = jax.lax.scan(piece, sums, parts)
        d_points = jax.tree.map(lambda v: geometry.uncut(v, y.shape[3], axis=3), d_points)
    return d_table, (*d_points, d_kernel.astype(kernel.dtype))


def _cut(points: Points, pieces: int) -> Points:
    """Everything in pieces along the positions; the last piece is padded with the last position's samples."""
    return jax.tree.map(lambda v: geometry.cut(v, pieces, axis=-1, mode="edge"), points)


def _project(values: jax.Array, matrix: jax.Array, groups: int, wide) -> jax.Array:
    """values (b, p, c_in) times matrix (c_in // groups, c_out), group by group: (b, p, c_out)."""
    if groups == 1:
        return jnp.einsum("bpc,co->bpo", values, matrix, preferred_element_type=wide)
    v = values.reshape(*values.shape[:2], groups, -1)
    m = matrix.reshape(matrix.shape[0], groups, -1)
    return jnp.einsum("bpfc,cfo->bpfo", v, m, preferred_element_type=wide).reshape(*values.shape[:2], -1)


def _project_vjp(g: jax.Array, matrix: jax.Array, groups: int, wide):
    """The gradient of `_project`, given that of its result, g (b, p, c_out): the gradient of the values, and a function
    that makes the gradient of the matrix from the values."""
    if groups == 1:
        d_values = jnp.einsum("bpo,co->bpc", g, matrix, preferred_element_type=wide)
        # Image by image: on a CPU one long sum with a small result takes 1.1 (256 channels) to 1.8 (64) times as long.
        return d_values, lambda v: jnp.einsum("bpc,bpo->bco", v, g, preferred_element_type=wide).sum(0)
    by_group = g.reshape(*g.shape[:2], groups, -1)
    m = matrix.reshape(matrix.shape[0], groups, -1)
    d_values = jnp.einsum("bpfo,cfo->bpfc", by_group, m, preferred_element_type=wide).reshape(*g.shape[:2], -1)

    def d_matrix(values):
        v = values.reshape(*values.shape[:2], groups, -1)
        return jnp.einsum("bpfc,bpfo->bcfo", v, by_group, preferred_element_type=wide).sum(0).reshape(matrix.shape)

    return d_values, d_matrix
