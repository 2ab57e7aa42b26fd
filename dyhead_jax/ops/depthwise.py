"""Depthwise and grouped convolution that is fast on the CPU too.

XLA's CPU backend runs `lax.conv_general_dilated` with feature groups 8 to 38 times slower than the same sum written as
shifted products, and its gradients with few channels a group hundreds of times; so each kind has a form for CPUs.
All forms give the same numbers, forward and backward.
"""

import functools

import jax
import jax.numpy as jnp

from dyhead_jax.ops import backend

Padding = tuple[tuple[int, int], tuple[int, int]]
IMPLEMENTATIONS = ("auto", "shifted", "lax")


def same_padding(size: tuple[int, int], kernel: tuple[int, int], stride: int) -> Padding:
    """TensorFlow's SAME: output size ceil(size / stride), the odd pixel of padding below and on the right."""

    def along(n: int, k: int) -> tuple[int, int]:
        total = max((-(-n // stride) - 1) * stride + k - n, 0)
        return total // 2, total - total // 2

    return along(size[0], kernel[0]), along(size[1], kernel[1])


def grouped_conv(
    x: jax.Array,
    kernel: jax.Array,
    *,
    groups: int,
    stride: int = 1,
    padding: Padding | str = "SAME",
    implementation: str = "auto",
) -> jax.Array:
    """Convolution in `groups` groups of channels; depthwise when groups == c_in.

    x: (b, h, w, c_in); kernel: (kh, kw, c_in // groups, c_out), both of one dtype; padding: ((top, bottom), (left,
    right)) or "SAME" as in TensorFlow. Returns (b, h_out, w_out, c_out) in the dtype of x.
    implementation: "shifted" (depthwise: a sum of shifted products; otherwise: a few dense convolutions), "lax"
    (`lax.conv_general_dilated`), or "auto", see `backend.shifted_or_lax`.
    Raises ValueError for shapes that do not fit together and for an unknown implementation.
    """
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(f"implementation is {implementation!r}; it may be {', '.join(map(repr, IMPLEMENTATIONS))}")
    c_in, (kh, kw, c_group, c_out) = x.shape[-1], kernel.shape
    if c_in % groups or c_out % groups or c_group != c_in // groups:
        raise ValueError(f"x of {c_in} channels and a kernel of shape {kernel.shape} do not make {groups} groups")
    if padding == "SAME":
        padding = same_padding((x.shape[1], x.shape[2]), (kh, kw), stride)
    assert not isinstance(padding, str), padding
    if implementation == "auto":
        implementation = backend.shifted_or_lax()
    if implementation == "shifted" and c_group == 1 and c_in == c_out:
        return _depthwise(x, kernel, stride, padding)
    if implementation == "shifted":
        return _grouped(x, kernel, groups, stride, padding)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"), feature_group_count=groups
    )


def _tap(x: jax.Array, i: int, j: int, rows: int, columns: int, stride: int) -> jax.Array:
    """Rows i, i + stride, ... and columns j, j + stride, ... of a padded x: the pixels that tap (i, j) reads."""
    return jax.lax.slice(
        x,
        (0, i, j, 0),
        (x.shape[0], i + (rows - 1) * stride + 1, j + (columns - 1) * stride + 1, x.shape[3]),
        (1, stride, stride, 1),
    )


def _pad(x: jax.Array, padding: Padding) -> jax.Array:
    return jnp.pad(x, ((0, 0), *padding, (0, 0)))


def _grouped(x: jax.Array, kernel: jax.Array, groups: int, stride: int, padding: Padding) -> jax.Array:
    """A few dense convolutions of several groups each: zeros in the kernel cost less than narrow groups do.

    At most 8 convolutions, which keeps compilation short, of at least 32 channels each.
    """
    kh, kw, c_group, c_out = kernel.shape
    merged = max(x.shape[-1] // 8, 32) // c_group  # groups in one dense convolution
    merged = next(n for n in range(min(max(merged, 1), groups), 0, -1) if groups % n == 0)
    parts, out_group = groups // merged, c_out // groups
    kernel = kernel.reshape(kh, kw, c_group, parts, merged, out_group)
    diagonal = jnp.eye(merged, dtype=kernel.dtype)
    kernel = jnp.einsum("hwipgo,gf->phwfigo", kernel, diagonal)
    kernel = kernel.reshape(parts, kh, kw, merged * c_group, merged * out_group)
    results = [
        jax.lax.conv_general_dilated(
            part, kernel[i], (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        for i, part in enumerate(jnp.split(x, parts, -1))
    ]
    return jnp.concatenate(results, -1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _depthwise(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    kh, kw = kernel.shape[:2]
    x = _pad(x, padding)
    rows, columns = (x.shape[1] - kh) // stride + 1, (x.shape[2] - kw) // stride + 1
    return _sum_of_taps([(_tap(x, i, j, rows, columns, stride), kernel[i, j, 0]) for i in range(kh) for j in range(kw)])


def _sum_of_taps(pairs: list[tuple[jax.Array, jax.Array]]) -> jax.Array:
    """Sum of x * k over the pairs x (b, h, w, c), k (c,). XLA compiles it into one fused loop."""
    x, k = pairs[0]
    total = x * k.reshape(1, 1, 1, -1)
    for x, k in pairs[1:]:
        total += x * k.reshape(1, 1, 1, -1)
    return total


def _depthwise_fwd(x: jax.Array, kernel: jax.Array, stride: int, padding: Padding):
    return _depthwise(x, kernel, stride, padding), (x, kernel)


def _depthwise_bwd(stride: int, padding: Padding, saved, dy: jax.Array):
    x, kernel = saved
    return _input_gradient(dy, kernel, x.shape, stride, padding), _kernel_gradient(x, dy, kernel, stride, padding)


def _input_gradient(dy: jax.Array, kernel: jax.Array, shape, stride: int, padding: Padding) -> jax.Array:
    """Gradient of x, phase by phase of the stride, which avoids multiplying with the zeros of a dilated dy.

    The padded row stride * q + a is read only by the taps a, a + stride, ... of the output rows q, q - 1, ...
    """
    b, h, w, c = shape
    kh, kw = kernel.shape[:2]
    (top, bottom), (left, right) = padding
    rows, columns = -(-(top + h + bottom) // stride), -(-(left + w + right) // stride)
    reach = (-(-kh // stride) - 1, -(-kw // stride) - 1)
    dy = _pad(dy, ((reach[0], rows - dy.shape[1]), (reach[1], columns - dy.shape[2])))
    phases = []
    for a in range(stride):
        for p in range(stride):
            pairs = [
                (_tap(dy, reach[0] - m, reach[1] - n, rows, columns, 1), kernel[a + stride * m, p + stride * n, 0])
                for m in range(-(-(kh - a) // stride))
                for n in range(-(-(kw - p) // stride))
            ]
            phases.append(_sum_of_taps(pairs) if pairs else jnp.zeros((b, rows, columns, c), dy.dtype))
    if stride == 1:
        dx = phases[0]
    else:
        dx = jnp.stack(phases, 3).reshape(b, rows, columns, stride, stride, c)
        dx = dx.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * stride, columns * stride, c)
    return dx[:, top : top + h, left : left + w]


def _kernel_gradient(x: jax.Array, dy: jax.Array, kernel: jax.Array, stride: int, padding: Padding) -> jax.Array:
    """Gradient of the kernel, summed in float32 or wider, output row by output row, so that the rows stay in cache."""
    kh, kw = kernel.shape[:2]
    x = _pad(x, padding)
    rows, columns = dy.shape[1:3]
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def row_sum(p: jax.Array) -> jax.Array:
        seen = jax.lax.dynamic_slice_in_dim(x, p * stride, kh, axis=1).astype(wide)
        row = jax.lax.dynamic_slice_in_dim(dy, p, 1, axis=1).astype(wide)
        # Columns are summed after the loop: a sum over leading axes only is vectorised, and 6 times faster.
        return jnp.stack(
            [(_tap(seen, i, j, 1, columns, stride) * row).sum((0, 1)) for i in range(kh) for j in range(kw)]
        )

    # Zeros computed from dy: under a mapped axis the carry must vary over that axis as the sums do.
    zeros = jnp.zeros((kh * kw, columns, x.shape[3]), wide) + 0 * dy[0, 0, 0, 0].astype(wide)
    total, _ = jax.lax.scan(lambda total, p: (total + row_sum(p), None), zeros, jnp.arange(rows))
    return total.sum(1).reshape(kernel.shape).astype(kernel.dtype)


_depthwise.defvjp(_depthwise_fwd, _depthwise_bwd)
