"""Deformable convolution written the slow and plain way: one sample at a time, in float64."""

import math

import numpy as np


def bilinear(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """image (h, w, c) at the point (y, x); zero beyond the rim, corners outside count as zero."""
    h, w, _ = image.shape
    if not (-1 < y < h and -1 < x < w):
        return np.zeros(image.shape[2])
    y0, x0 = math.floor(y), math.floor(x)
    value = np.zeros(image.shape[2])
    for row, wy in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
        for column, wx in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
            if 0 <= row < h and 0 <= column < w:
                value += wy * wx * image[row, column]
    return value


def deform_conv(x, offsets, mask, kernel, bias, stride, padding, dilation, groups):
    """Arguments as the fast one, strides and the like as pairs."""
    x, kernel = x.astype(np.float64), kernel.astype(np.float64)
    kh, kw, _, c_out = kernel.shape
    b, h_out, w_out = offsets.shape[:3]
    deform_groups = offsets.shape[3] // (kh * kw)
    per_deform, per_group, out_group = x.shape[3] // deform_groups, x.shape[3] // groups, c_out // groups
    out = np.zeros((b, h_out, w_out, c_out))
    for n, i, j in np.ndindex(b, h_out, w_out):
        for tap in range(kh * kw):
            ky, kx = divmod(tap, kw)
            sample = np.zeros(x.shape[3])
            for g in range(deform_groups):
                dy, dx = offsets[n, i, j, g * kh * kw + tap]
                y = i * stride[0] - padding[0] + ky * dilation[0] + float(dy)
                x_ = j * stride[1] - padding[1] + kx * dilation[1] + float(dx)
                part = slice(g * per_deform, (g + 1) * per_deform)
                weight = 1.0 if mask is None else float(mask[n, i, j, g * kh * kw + tap])
                sample[part] = weight * bilinear(x[n, :, :, part], y, x_)
            for g in range(groups):
                outs = slice(g * out_group, (g + 1) * out_group)
                out[n, i, j, outs] += sample[g * per_group : (g + 1) * per_group] @ kernel[ky, kx, :, outs]
    return out if bias is None else out + bias
