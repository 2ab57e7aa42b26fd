"""Golden cases C: one, two and six DyHead blocks of both lineages, forward and gradients, every implementation.

Where a kink (floor cell, ReLU) flips in float32, a run in float64 counts in its place: within 1e-7 of the file
or, since files hold the reference's float32 run, where its float64 run is by the manifest: as far from the file as that
says, to a hundredth.

Several blocks are one compiled block scanned, for the compiler's sake; two with "auto" come one after the other.
"""

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax.dyhead import DyHead
from dyhead_jax.ops.deform_conv import IMPLEMENTATIONS
from dyhead_jax.training import steps
from dyhead_jax.weights import names
from tests.parity.goldens import cases, nchw, nhwc, notes, relative

CASES = cases("C_")
FLOAT64 = 1e-7


def build(case, implementation):
    weights = case.under("w/")
    official = any(".DyConv." in name for name in weights)
    p = case.params
    blocks = len({name.split(".")[0 if official else 1] for name in weights})
    head = DyHead(
        num_blocks=blocks,
        features=p["C"],
        norm_groups=p["gn_groups"],
        dcn_bias=official,
        lineage="official" if official else "mmdet",
        implementation=implementation,
        scan=blocks > (2 if implementation == "gather" else 1),
    )
    table = names.dyhead("official" if official else "mmdet", blocks)
    return head, table, weights


def run(case, implementation, dtype):
    head, table, weights = build(case, implementation)
    head = head.clone(dtype=jnp.dtype(dtype))
    pyramid = [jnp.asarray(nhwc(x), dtype) for x in case.numbered("in/x*")]
    cts = [jnp.asarray(nhwc(x), dtype) for x in case.numbered("ct/y*")]
    params = names.load(table, weights)["params"]
    params = jax.tree.map(lambda v: jnp.asarray(v, dtype), params)

    @steps.jit_once
    def value_and_grad(params, pyramid):
        def apply(params, pyramid):
            if head.scan:
                blocks = [params[f"block_{i}"] for i in range(head.num_blocks)]
                params = {"blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}
            return head.apply({"params": params}, pyramid)

        out, vjp = jax.vjp(apply, params, pyramid)
        return out, *vjp(cts)

    out, d_params, d_pyramid = value_and_grad(params, pyramid)
    got = {f"out/y{i}": nchw(v) for i, v in enumerate(out)}
    got |= {f"grad/in/x{i}": nchw(v) for i, v in enumerate(d_pyramid)}
    got |= {f"grad/w/{k}": v for k, v in names.save(table, {"params": d_params}).items()}
    return got


def worst(case, got) -> dict[str, float]:
    expected = case.beginning("out/", "grad/")
    assert expected
    assert not set(expected) - set(got)
    return {key: relative(got[key], value) for key, value in expected.items()}


def rounding(case) -> dict[str, float]:
    """By how much, relative, the reference's float32 differs from its float64 in each output and gradient of a map; for
    gradients of weights by how much at most."""
    known = case.manifest.get("rel_l2_f32_vs_f64", {})
    own = {f"out/y{i}": error for i, error in enumerate(known.get("out_rel_l2", ()))}
    own |= {f"grad/in/x{i}": error for i, error in enumerate(known.get("grad_in_rel_l2", ()))}
    worst_weight = known.get("grad_w_rel_l2_worst", (0.0, ""))[0]
    return own | {key: worst_weight for key in case.keys if key.startswith("grad/w/")}


@pytest.mark.parametrize(
    "implementation",  # "auto" last: it may be a program of theirs
    [*(pytest.param(name, marks=pytest.mark.long) for name in IMPLEMENTATIONS), "auto"],
)
@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_blocks(case, implementation):
    deep = build(case, implementation)[0].num_blocks > 2
    out_bound, grad_bound = (1e-4, 1e-3) if deep else (1e-5, 1e-4)
    errors = worst(case, run(case, implementation, "float32"))
    bad = {k: e for k, e in errors.items() if e > (out_bound if k.startswith("out/") else grad_bound)}
    if not bad:
        return
    with jax.enable_x64(True):
        errors = worst(case, run(case, implementation, "float64"))
    own = rounding(case)
    off = {k: e for k, e in errors.items() if e > FLOAT64 + 1.01 * own.get(k, 0.0)}
    off |= {k: errors[k] for k in own if not k.startswith("grad/w/") and errors[k] < 0.99 * own[k] - FLOAT64}
    assert not off, f"float32: {bad}; float64: {off}"
    flip = max(bad, key=bad.__getitem__)
    notes.append(
        f"{case.name} {implementation}: taken in float64 ({max(errors.values()):.1e}), a kink flips in float32"
        f" ({len(bad)} of {len(errors)} off, most {flip}, {bad[flip]:.1e})"
    )
