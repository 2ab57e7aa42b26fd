"""Layers written the slow and plain way in float64; maps are (h, w, c), parameters those of the Linen layers."""

import numpy as np


def wide(tree):
    """A tree of arrays as float64."""
    if isinstance(tree, dict):
        return {name: wide(value) for name, value in tree.items()}
    return np.asarray(tree, np.float64)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    e = np.exp(x - x.max())
    return e / e.sum()


def dense(p, x):
    return x @ p["kernel"] + p.get("bias", 0)


def conv(p, x, stride=1):
    """3x3, padded by one."""
    h, w, _ = x.shape
    padded = np.pad(x, ((1, 1), (1, 1), (0, 0)))
    out = np.zeros((-(-h // stride), -(-w // stride), p["kernel"].shape[-1]))
    for i, j in np.ndindex(out.shape[:2]):
        window = padded[i * stride : i * stride + 3, j * stride : j * stride + 3]
        out[i, j] = np.einsum("abc,abco->o", window, p["kernel"])
    return out + p.get("bias", 0)


def group_norm(p, x, groups, eps=1e-5):
    """Over all axes but the last."""
    parts = x.reshape(-1, groups, x.shape[-1] // groups)
    mean, var = parts.mean((0, 2), keepdims=True), parts.var((0, 2), keepdims=True)
    return ((parts - mean) / np.sqrt(var + eps)).reshape(x.shape) * p["scale"] + p["bias"]


def layer_norm(p, x, eps=1e-6):
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(var + eps) * p["scale"] + p["bias"]


def upsample(x, size):
    """Bilinear, corners aligned."""
    for axis, n in enumerate(size):
        at = np.linspace(0, x.shape[axis] - 1, n)
        low = np.minimum(at.astype(int), max(x.shape[axis] - 2, 0))
        high = np.minimum(low + 1, x.shape[axis] - 1)
        part = np.expand_dims(at - low, tuple(i for i in range(3) if i != axis))
        x = (1 - part) * x.take(low, axis) + part * x.take(high, axis)
    return x


def resize(x, size):
    """Bilinear with half-pixel centres; where a side shrinks, the triangle is as much wider."""
    for axis, n in enumerate(size):
        length = x.shape[axis]
        centre = (np.arange(n)[:, None] + 0.5) * length / n - 0.5
        weight = relu(1 - np.abs(np.arange(length)[None] - centre) / max(1, length / n))
        weight /= weight.sum(1, keepdims=True)
        x = np.moveaxis(np.tensordot(weight, x, (1, axis)), 0, axis)
    return x
