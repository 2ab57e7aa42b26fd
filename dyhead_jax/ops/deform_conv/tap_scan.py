"""The loop over a kernel's taps, and its gradient, for any way of reading samples.

A form is a module with four functions: `prepare` makes one array of all maps, `read` blends the samples of a tap,
`pull` is the gradient of `read`, `restore` the transpose of `prepare`. The array is (b, g, rows, ...), its gradient
(b, g, rows, all others as one). Nothing of size taps x samples x channels is ever stored: the backward pass reads every
sample again and adds into the gradient in float32.

Positions may be worked off in pieces, one after the other, each through all taps: what a tap makes of a piece then
stays in a CPU's cache until the tap is done with it.
"""

import functools
import math
from types import ModuleType
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import dense, dispatch, gather, geometry

FORMS: dict[str, ModuleType] = {"taps": gather, "hat": dense}


class Plan(NamedTuple):
    """How the samples of one kernel are worked off."""

    how: dispatch.Plan
    layouts: tuple[geometry.Layout, ...]


class Points(NamedTuple):
    """The samples of all taps: what their positions read, and y, x and mask (or None), each (k, b, g, p)."""

    source: geometry.Source
    y: jax.Array
    x: jax.Array
    mask: jax.Array | None


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def tap_loop(plans, places, groups, deform_groups, maps, kernels):
    """For each kernel, the sum over taps of samples times the tap's matrix: (b, p, c_out), float32 or wider.

    All kernels read the same maps: one table of them is made, and one gradient of it. plans: a `Plan` for each, all of
    one form; places: of the maps; maps: [(b, h, w, c_in)]; kernels: a tuple for each of y, x, mask (or None),
    (k, b, g, p), and the kernel, (k, c_in // groups, c_out).
    """
    table = FORMS[plans[0].how.form].prepare(maps, deform_groups)
    return [_sum(plan, groups, table, kernel) for plan, kernel in zip(plans, kernels, strict=True)]


def _forward(plans, places, groups, deform_groups, maps, kernels):
    # the maps live on as the block's input; the table is cheaper to make again than to keep
    return tap_loop(plans, places, groups, deform_groups, maps, kernels), (maps, kernels)


def _backward(plans, places, groups, deform_groups, residuals, gs):
    maps, kernels = residuals
    form = FORMS[plans[0].how.form]
    table = form.prepare(maps, deform_groups)
    wide = jnp.promote_types(table.dtype, jnp.float32)
    d_table = geometry.zeros(table, (*table.shape[:3], math.prod(table.shape[3:])), wide)
    d_kernels = []
    for plan, kernel, g in zip(plans, kernels, gs, strict=True):
        d_table, gradients = _pull(plan, groups, deform_groups, table, d_table, kernel, g)
        d_kernels.append(gradients)
    return form.restore(places, d_table, maps), d_kernels


tap_loop.defvjp(_forward, _backward)


def _sum(plan: Plan, groups: int, table: jax.Array, operands) -> jax.Array:
    """`tap_loop` of one kernel, from the table."""
    y, x, mask, kernel = operands
    form = FORMS[plan.how.form]
    wide = jnp.promote_types(table.dtype, jnp.float32)

    def piece(points: Points) -> jax.Array:
        def tap(total, inputs):
            (y, x, mask), matrix = inputs
            value = form.read(plan.layouts, table, geometry.samples(points.source, y, x, mask))
            value = geometry.join_groups(value).astype(table.dtype)
            return total + _project(value, matrix.astype(table.dtype), groups, wide), None

        zero = geometry.zeros(table, (table.shape[0], points.y.shape[3], kernel.shape[2]), wide)
        return jax.lax.scan(tap, zero, ((points.y, points.x, points.mask), kernel))[0]

    points = Points(geometry.sources(plan.layouts), y, x, mask)
    if plan.how.pieces == 1:
        return piece(points)
    return geometry.uncut(jax.lax.map(piece, _cut(points, plan.how.pieces)), y.shape[3], axis=1)


def _pull(plan: Plan, groups: int, deform_groups: int, table: jax.Array, d_table: jax.Array, operands, g):
    """Adds the gradient of the table to d_table, given that of the sum, g (b, p, c_out). Returns d_table, and the
    gradients of y, x, mask and kernel."""
    y, x, mask, kernel = operands
    form, pieces = FORMS[plan.how.form], plan.how.pieces
    wide = d_table.dtype
    g = g.astype(table.dtype)

    def piece(sums, inputs):
        points, g = inputs

        def tap(d_table, inputs):
            (y, x, mask), matrix = inputs
            s = geometry.samples(points.source, y, x, mask)
            d_value, d_matrix_of = _project_transposed(g, matrix.astype(table.dtype), groups, wide)
            d_value = geometry.split_groups(d_value, deform_groups)
            d_table, value, (d_y, d_x, d_mask) = form.pull(plan.layouts, table, d_table, s, d_value, plan.how.apart)
            d_matrix = d_matrix_of(geometry.join_groups(value).astype(table.dtype))
            return d_table, (d_matrix, (d_y, d_x, None if mask is None else d_mask))

        d_table, d_kernel = sums
        inputs = (points.y, points.x, points.mask), kernel
        d_table, (d_matrices, d_points) = jax.lax.scan(tap, d_table, inputs)
        return (d_table, d_kernel + d_matrices), d_points

    sums = d_table, geometry.zeros(table, kernel.shape, wide)
    points = Points(geometry.sources(plan.layouts), y, x, mask)
    if pieces == 1:
        (d_table, d_kernel), d_points = piece(sums, (points, g))
    else:  # no gradient comes from what fills the last piece up
        parts = _cut(points, pieces), geometry.cut(g, pieces, axis=1, mode="constant")
        (d_table, d_kernel), d_points = jax.lax.scan(piece, sums, parts)
        d_points = jax.tree.map(lambda v: geometry.uncut(v, y.shape[3], axis=3), d_points)
    return d_table, (*d_points, d_kernel.astype(kernel.dtype))


def _cut(points: Points, pieces: int) -> Points:
    """All in pieces along the positions; samples that fill up the last one repeat the last position's."""
    return jax.tree.map(lambda v: geometry.cut(v, pieces, axis=-1, mode="edge"), points)


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
        # image by image: one long sum with a small result takes 1.1 (256 channels) to 1.8 (64) times as long on a CPU
        return d_values, lambda v: jnp.einsum("bpc,bpd->bcd", v, g, preferred_element_type=wide).sum(0)
    by_group = g.reshape(*g.shape[:2], groups, -1)
    m = matrix.reshape(matrix.shape[0], groups, -1)
    d_values = jnp.einsum("bpnd,cnd->bpnc", by_group, m, preferred_element_type=wide).reshape(*g.shape[:2], -1)

    def d_matrix(values):
        v = values.reshape(*values.shape[:2], groups, -1)
        return jnp.einsum("bpnc,bpnd->bcnd", v, by_group, preferred_element_type=wide).sum(0).reshape(matrix.shape)

    return d_values, d_matrix
