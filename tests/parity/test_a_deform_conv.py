"""Golden cases A: deformable convolution v1 and v2, forward and gradients, every implementation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.dyhead import coarse_offsets
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS, deform_conv
from dyhead_jax.training import steps
from tests.parity.goldens import cases, hwio, nchw, nhwc, relative

CASES = cases("A")


def to_taps(offset: np.ndarray, taps: int) -> np.ndarray:
    """(b, g*k*2, h, w) to (b, h, w, g*k, 2)."""
    b, channels, h, w = offset.shape
    return offset.reshape(b, channels // 2, 2, h, w).transpose(0, 3, 4, 1, 2)


def from_taps(offset: np.ndarray) -> np.ndarray:
    b, h, w, gk, _ = offset.shape
    return np.asarray(offset).transpose(0, 3, 4, 1, 2).reshape(b, 2 * gk, h, w)


def run(case, implementation):
    """Forward value and gradients of sum(out * ct), in PyTorch layouts."""
    p = case.params
    taps = int(np.prod(p["kernel"]))
    has_mask = "in/mask" in case
    out_hw = tuple(p["out_hw"])
    inputs = {
        "x": nhwc(case["in/x"]),
        "offset": to_taps(case["in/offset"], taps),
        "weight": hwio(case["in/weight"]),
    }
    if has_mask:
        inputs["mask"] = nhwc(case["in/mask"])
    if "in/bias" in case:
        inputs["bias"] = case["in/bias"]
    ct = nhwc(case["ct/y"])

    def forward(v):
        offset, mask = v["offset"], v.get("mask")
        if tuple(p["offset_hw"]) != out_hw:  # the coarse-level quirk
            offset, mask = coarse_offsets.flat(offset, mask, out_hw)
        return deform_conv(
            v["x"],
            offset,
            mask,
            v["weight"],
            v.get("bias"),
            stride=tuple(p["stride"]),
            padding=tuple(p["padding"]),
            dilation=tuple(p["dilation"]),
            groups=p["groups"],
            implementation=implementation,
        )

    @steps.jit_once
    def value_and_grad(v):
        out, vjp = jax.vjp(forward, v)
        return out, vjp(jnp.asarray(ct))[0]

    out, grads = value_and_grad(inputs)
    got = {"out/y": nchw(out), "grad/x": nchw(grads["x"])}
    got["grad/offset"] = from_taps(grads["offset"])
    got["grad/weight"] = np.asarray(grads["weight"]).transpose(3, 2, 0, 1)
    if has_mask:
        got["grad/mask"] = nchw(grads["mask"])
    if "in/bias" in case:
        got["grad/bias"] = np.asarray(grads["bias"])
    return got


@pytest.mark.parametrize("implementation", ["auto", *IMPLEMENTATIONS])
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_deform_conv(case, implementation):
    got = run(case, implementation)
    expected = case.beginning("out/", "grad/")
    assert set(got) == set(expected)
    for key, value in expected.items():
        assert relative(got[key], value) <= (1e-5 if key.startswith("out/") else 1e-4), key
