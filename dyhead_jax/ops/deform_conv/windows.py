"""The form "windows": tiles of the output, each with the window of the map around it, and no gather for near samples.

A tile's samples are a matrix product: interpolation weights (samples x pixels of the window) times the window. The work
grows with the pixels of a map, not with their square as in "dense", and a TPU's compiler computes the weights inside
the product, so that they are never stored. Narrow windows are taken where few samples lie beyond them (offsets of up to
3 pixels never do), otherwise wide ones (up to 7). Samples beyond their window are read by `leftover`, so that the
numbers are those of every other form.

The weights have the dtype of the maps, so in bfloat16 they are rounded to 8 bits. All taps are read at once: the
samples of a map are stored once, taps x positions x channels.

Axis letters are those of the package's legend (`geometry`).
"""

import functools

import jax
import jax.numpy as jnp

from dyhead_jax.ops.deform_conv import geometry, leftover, tiles
from dyhead_jax.ops.deform_conv.geometry import Layout

# Narrower windows are taken as long as at most this part of the positions of each image has samples beyond them. For a
# v5e libtpu estimates as much for reading it again as narrower windows save.
FEW = 1 / 16


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def windowed(choices, layouts, groups, deform_groups, maps, y, x, mask, kernel):
    """The sum over taps of samples times the tap's matrix: (b, p, c_out), float32 or wider.

    choices: for each margin, ascending, a `tiles.Grid` for each map; layouts: of the maps, [(b, h, w, c_in)];
    y, x, mask (or None): (k, b, g, p); kernel: (k, c_in // groups, c_out).
    """
    choice, _, blend, far = _split(choices, layouts, y, x, mask)

    def read(grids):
        results = []
        for grid, layout, x_map in zip(grids, layouts, maps, strict=True):
            points = [_of_map(layout, v) for v in (y, x, blend)]
            window, weights, _ = _weights(grid, layout, deform_groups, x_map, *points)
            columns, by_group = _columns(weights, window, groups), _by_group(kernel, groups, window)
            out = _einsum("byxktfc,kcfo->byxtfo", columns, by_group)
            results.append(tiles.from_tiles(layout, out.reshape(*out.shape[:4], -1)))
        return jnp.concatenate(results, axis=1)

    out = jax.lax.switch(choice, [functools.partial(read, grids) for grids in choices])
    return leftover.add(layouts, groups, deform_groups, maps, far, kernel, out)


def _forward(choices, layouts, groups, deform_groups, maps, y, x, mask, kernel):
    return windowed(choices, layouts, groups, deform_groups, maps, y, x, mask, kernel), (maps, y, x, mask, kernel)


def _backward(choices, layouts, groups, deform_groups, residuals, g):
    maps, y, x, mask, kernel = residuals
    choice, near, blend, far = _split(choices, layouts, y, x, mask)
    g = g.astype(maps[0].dtype)

    def gradients(grids):
        d_maps, d_points, d_kernels = [], [], []
        for grid, layout, x_map in zip(grids, layouts, maps, strict=True):
            points = [_of_map(layout, v) for v in (y, x, blend)]
            g_map = g[:, layout.position : layout.position + layout.positions]
            d_map, d_point, d_kernel = _gradients(grid, layout, groups, deform_groups, x_map, points, kernel, g_map)
            d_maps.append(d_map)
            d_points.append(d_point)
            d_kernels.append(d_kernel)
        d_points = [jnp.concatenate(parts, axis=-1) for parts in zip(*d_points, strict=True)]  # of y, x and blend
        return d_maps, d_points, sum(d_kernels[1:], d_kernels[0])

    branches = [functools.partial(gradients, grids) for grids in choices]
    d_maps, (d_y, d_x, d_blend), d_kernels = jax.lax.switch(choice, branches)
    sums = d_maps, (d_y, d_x, jnp.where(near, d_blend, 0.0)), d_kernels
    d_maps, (d_y, d_x, d_blend), d_kernels = leftover.add_gradients(
        layouts, groups, deform_groups, maps, far, kernel, g, sums
    )
    d_maps = [d.astype(x_map.dtype) for d, x_map in zip(d_maps, maps, strict=True)]
    return d_maps, d_y, d_x, None if mask is None else d_blend, d_kernels.sum(axis=0).astype(kernel.dtype)


windowed.defvjp(_forward, _backward)


def _split(choices, layouts, y: jax.Array, x: jax.Array, mask: jax.Array | None):
    """The index of the grids in `choices` that are taken; which samples lie in their windows, (k, b, g, p); the mask of
    these samples, 0 at the others; and the samples beyond."""
    inside = jax.vmap(functools.partial(geometry.inside, geometry.sources(layouts)))(y, x)
    nears = []
    for grids in choices:
        by_map = [
            tiles.in_window(grid, layout, _of_map(layout, y), _of_map(layout, x))[1]
            for grid, layout in zip(grids, layouts, strict=True)
        ]
        nears.append(inside & jnp.concatenate(by_map, axis=-1))
    # one maximum over the images for all grids, so that a sharded batch communicates once
    counts = jnp.stack([leftover.positions(inside & ~near).sum(axis=1) for near in nears]).max(axis=1)
    few = counts <= FEW * y.shape[3]
    choice = jnp.argmax(jnp.append(few[:-1], True))  # the first
    near, count = (jax.lax.dynamic_index_in_dim(v, choice, keepdims=False) for v in (jnp.stack(nears), counts))
    blend = jnp.ones_like(y) if mask is None else mask
    beyond = inside & ~near
    far = leftover.Leftover(y, x, jnp.where(beyond, blend, 0.0), beyond, count)
    return choice, near, jnp.where(near, blend, 0.0), far


def _of_map(layout: Layout, v: jax.Array) -> jax.Array:
    """The part of (k, b, g, p) that belongs to one map."""
    return v[..., layout.position : layout.position + layout.positions]


def _gradients(grid, layout, groups, deform_groups, x_map, points, kernel, g):
    """The gradients of the map, of points (y, x, blend) and of the kernel, one for each image, float32 or wider, from
    g (b, p, c_out)."""
    window, weights, distances = _weights(grid, layout, deform_groups, x_map, *points)
    g = g.reshape(g.shape[0], layout.out_height, layout.out_width, groups, -1)
    g = tiles.tiles(grid, g, axis=1)
    d_kernel = _einsum("byxktfc,byxtfo->bkcfo", _columns(weights, window, groups), g)
    d_columns = _einsum("byxtfo,kcfo->byxktfc", g, _by_group(kernel, groups, window)).astype(window.dtype)
    d_columns = jnp.moveaxis(d_columns.reshape(*d_columns.shape[:5], deform_groups, -1), 5, 1)

    d_window = _einsum("bgyxktv,bgyxktc->bgyxvc", weights, d_columns)
    cut = functools.partial(tiles.windows, grid, deform_groups=deform_groups)
    (d_map,) = jax.vjp(cut, x_map.astype(d_window.dtype))[1](d_window)
    d_weights = _einsum("bgyxktc,bgyxvc->bgyxktv", d_columns, window)  # of the weights without the mask
    (y_weights, x_weights), (y_slopes, x_slopes) = map(_linear, distances), map(_slope, distances)
    sums = [y_weights * x_weights, y_slopes * x_weights, y_weights * x_slopes]
    sums = [tiles.from_samples(layout, jnp.sum(d_weights * v, axis=-1)).astype(points[2].dtype) for v in sums]
    return d_map, (points[2] * sums[1], points[2] * sums[2], sums[0]), d_kernel.reshape(-1, *kernel.shape)


def _weights(grid: tiles.Grid, layout: Layout, deform_groups: int, x_map: jax.Array, y: jax.Array, x: jax.Array, blend):
    """Windows (b, g, y, x, v, c // g); masked weights (b, g, y, x, k, t, v); and the distances, along y and along x, of
    each pixel of the window from the sample."""
    floors, near = tiles.in_window(grid, layout, y, x)
    largest = 1 - 64 * jnp.finfo(y.dtype).eps  # of fractions, so that rounding never moves a sample to another cell
    distances = []
    for points, floor, pixel in zip((y, x), floors, tiles.pixels(grid), strict=True):
        point = floor + jnp.minimum(points - jnp.floor(points), largest)
        by_tile = tiles.by_tile(grid, layout, jnp.where(near, point, 0.0))[..., None]
        distances.append(jnp.asarray(pixel, points.dtype).reshape(1, 1, 1, 1, 1, 1, -1) - by_tile)
    blend = tiles.by_tile(grid, layout, blend)[..., None]
    weights = _linear(distances[0]) * (_linear(distances[1]) * blend)
    return tiles.windows(grid, x_map, deform_groups), weights.astype(x_map.dtype), distances


def _columns(weights: jax.Array, window: jax.Array, groups: int) -> jax.Array:
    """The samples: (b, y, x, k, t, groups, c // groups)."""
    values = _einsum("bgyxktv,bgyxvc->bgyxktc", weights, window).astype(window.dtype)
    values = jnp.moveaxis(values, 1, 5)
    return values.reshape(*values.shape[:5], groups, -1)


def _linear(distance: jax.Array) -> jax.Array:
    """The linear interpolation weight of a pixel at this distance."""
    # not by comparing and selecting, for which a TPU's compiler estimates more cycles
    return jnp.maximum(0.0, 1 - jnp.abs(distance))


def _slope(distance: jax.Array) -> jax.Array:
    """The derivative of the weight of a pixel at this distance by the sample's coordinate: -1 at the pixel that is the
    sample's floor, 1 at the next one."""
    odd = 2 * jnp.ceil(distance) - 1  # -1 and 1 at these two, beyond -2 and 2 at all others
    return odd * jnp.maximum(0.0, 2 - jnp.abs(odd))


def _by_group(kernel: jax.Array, groups: int, like: jax.Array) -> jax.Array:
    """(k, c_in // groups, groups, c_out // groups), in the dtype of `like`."""
    return kernel.reshape(*kernel.shape[:2], groups, -1).astype(like.dtype)


def _einsum(spec: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(spec, a, b, preferred_element_type=jnp.promote_types(a.dtype, jnp.float32))
