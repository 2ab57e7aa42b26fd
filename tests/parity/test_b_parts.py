"""Golden cases B: hard sigmoid, DyReLU, scale attention, align-corners upsampling and GroupNorm."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.dyhead import ScaleAttention, TaskAttention
from dyhead_jax.dyhead.activations import hard_sigmoid
from dyhead_jax.ops.resize import upsample_align_corners
from tests.parity.goldens import cases, nhwc, relative, stated


def matching(prefix):
    return pytest.mark.parametrize("case", cases(prefix), ids=lambda c: c.name)


def with_vjp(f, ct, *args):
    @jax.jit
    def run(ct, *args):
        out, vjp = jax.vjp(f, *args)
        return out, vjp(ct)

    return run(ct, *args)


@matching("B01")
def test_hard_sigmoid(case):
    for lineage in ("official", "mmdet"):
        out, (grad,) = with_vjp(lambda x, lineage=lineage: hard_sigmoid(x, lineage), case["ct/y"], case["in/x"])
        np.testing.assert_allclose(out, case["out/y"], atol=1e-6)
        np.testing.assert_allclose(grad, case[f"grad/x_{lineage}"], atol=1e-6)


@matching("B02")
def test_dyrelu(case):
    official = "w/conv1.conv.weight" not in case
    names = ("fc.0", "fc.2") if official else ("conv1.conv", "conv2.conv")
    as_kernel = lambda w: w.reshape(w.shape[:2]).T  # noqa: E731
    params = {
        ours: {"kernel": as_kernel(case[f"w/{name}.weight"]), "bias": case[f"w/{name}.bias"]}
        for ours, name in zip(("squeeze", "expand"), names, strict=True)
    }
    model = TaskAttention(lineage="official" if official else "mmdet")
    out, (d_params, d_x) = with_vjp(
        lambda p, x: model.apply({"params": p}, x), nhwc(case["ct/y"]), params, jnp.asarray(nhwc(case["in/x"]))
    )
    assert relative(out, nhwc(case["out/y"])) <= 1e-5
    assert relative(d_x, nhwc(case["grad/in/x"])) <= 1e-4
    for ours, name in zip(("squeeze", "expand"), names, strict=True):
        assert relative(d_params[ours]["kernel"], as_kernel(case[f"grad/w/{name}.weight"])) <= 1e-4
        assert relative(d_params[ours]["bias"], case[f"grad/w/{name}.bias"]) <= 1e-4


@matching("B03")
def test_scale_attention(case):
    params = {"gate": {"kernel": case["w/1.weight"].reshape(1, -1).T, "bias": case["w/1.bias"]}}
    out, (d_params, d_x) = with_vjp(
        lambda p, x: ScaleAttention().apply({"params": p}, [x]),
        nhwc(case["ct/y"]),
        params,
        jnp.asarray(nhwc(case["in/x"])),
    )
    assert relative(out, nhwc(case["out/y"])) <= 1e-5
    assert relative(d_x, nhwc(case["grad/in/x"])) <= 1e-4
    x = nhwc(case["in/x"])
    weight = np.sum(out * x, axis=(1, 2, 3)) / np.sum(x * x, axis=(1, 2, 3))  # out is the map times its weight
    assert relative(weight.reshape(-1, 1, 1, 1), case["out/attn"]) <= 1e-5
    assert relative(d_params["gate"]["kernel"].T, case["grad/w/1.weight"].reshape(1, -1)) <= 1e-4
    assert relative(d_params["gate"]["bias"], case["grad/w/1.bias"]) <= 1e-4


@matching("B04")
def test_upsampling_and_group_norm(case):
    size = case.shape("out/up")[2:]
    out, (grad,) = with_vjp(lambda x: upsample_align_corners(x, size), nhwc(case["ct/up"]), nhwc(case["in/x"]))
    assert relative(out, nhwc(case["out/up"])) <= 1e-5
    assert relative(grad, nhwc(case["grad/x_up"])) <= 1e-4
    single = upsample_align_corners(jnp.asarray(nhwc(case["in/x1"])), case.shape("out/up_from_1x1")[2:])
    assert relative(single, nhwc(case["out/up_from_1x1"])) <= 1e-5
    groups = int(stated(case.manifest["what"], r"GroupNorm (\d+) groups"))
    norm = nn.GroupNorm(groups, epsilon=1e-5, use_fast_variance=False)
    params = {"scale": case["w/gn.weight"], "bias": case["w/gn.bias"]}
    out, (d_params, d_x) = with_vjp(
        lambda p, x: norm.apply({"params": p}, x), nhwc(case["ct/gn"]), params, jnp.asarray(nhwc(case["in/x"]))
    )
    assert relative(out, nhwc(case["out/gn"])) <= 1e-5
    assert relative(d_x, nhwc(case["grad/x_gn"])) <= 1e-4
    assert relative(d_params["scale"], case["grad/w/gn.weight"]) <= 1e-4
    assert relative(d_params["bias"], case["grad/w/gn.bias"]) <= 1e-4
