"""What is recorded is what the attentions compute with, and recording changes nothing else."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.dyhead import DyHead, SpatialAttention
from dyhead_jax.dyhead.coarse_offsets import CoarseOffsets
from dyhead_jax.look.record import KINDS as KERNELS
from dyhead_jax.look.record import Recorder, RecordError, each_block, read_block
from tests.detectors.kinds import KINDS
from tests.look import trained

SIZES = [(8, 11), (4, 6), (2, 3)]
C = 16
FORMS = [{}, {"remat": True}, {"scan": True}, {"scan": True, "remat": True}]


def named(form):
    return "+".join(form) or "plain"


@pytest.fixture(scope="module")
def pyramid():
    keys = jax.random.split(jax.random.key(0), len(SIZES))
    return [jax.random.normal(key, (1, *size, C)) for key, size in zip(keys, SIZES, strict=True)]


@pytest.fixture(scope="module")
def params(pyramid):
    """Of two blocks, by block."""
    params = jax.jit(DyHead(2, C, norm_groups=4).init)(jax.random.key(1), pyramid)["params"]
    noise = jax.random.normal(jax.random.key(2), ())
    return jax.tree.map(lambda x: x + 0.1 * noise * jnp.ones_like(x), params)


def arranged(params, form):
    if not form.get("scan"):
        return params
    return {"blocks": jax.tree.map(lambda *x: jnp.stack(x), params["block_0"], params["block_1"])}


@pytest.mark.parametrize("form", [FORMS[0], *(pytest.param(f, marks=pytest.mark.long) for f in FORMS[1:])], ids=named)
def test_programs_are_the_same_without_a_collector(form, pyramid, params, monkeypatch):
    head = DyHead(2, C, norm_groups=4, **form)
    variables = {"params": arranged(params, form)}

    def programs():
        def total(v, x):
            return sum(jnp.sum(y) for y in head.apply(v, x))

        function = jax.grad(total) if form.get("remat") else head.apply  # only the gradient computes twice
        return jax.jit(lambda v, x: function(v, x)).lower(variables, pyramid).as_text()

    with_recording = programs()
    monkeypatch.setattr(nn.Module, "sow", lambda *arguments, **options: False)
    assert programs() == with_recording


@pytest.mark.parametrize(
    "coarse_offsets",
    [pytest.param(c, marks=[] if c == CoarseOffsets.FLAT else pytest.mark.long) for c in CoarseOffsets],
)
def test_a_collector_adds_results_and_no_operation(coarse_offsets, pyramid, params):
    head = DyHead(2, C, norm_groups=4, coarse_offsets=coarse_offsets)

    def operations(mutable):
        program = jax.jit(lambda v, x: head.apply(v, x, mutable=mutable)).lower({"params": params}, pyramid)
        return Counter(re.findall(r"stablehlo\.\w+", program.as_text())), len(jax.tree.leaves(program.out_info))

    without, results = operations(False)
    collected, more_results = operations(["intermediates"])
    assert collected == without
    # by block: offsets and weights of 3 + 2 + 2 maps, 2 + 3 + 2 weights of candidates, 4 coefficients of 3 levels
    assert more_results == results + 2 * (2 * 7 + 7 + 4 * 3)


def record(head, variables, pyramid):
    out, recorded = jax.jit(
        lambda v, x: head.apply(
            v,
            x,
            mutable=["intermediates"],
            capture_intermediates=lambda m, name: len(m.path) == 1 and name == "__call__",
        )
    )(variables, pyramid)
    recorded = {name: value for name, value in recorded["intermediates"].items() if name.startswith("block")}
    return out, [read_block(block, SIZES) for block in each_block(jax.device_get(recorded))]


@pytest.fixture(scope="module")
def plain(pyramid, params):
    return record(DyHead(2, C, norm_groups=4), {"params": params}, pyramid)


def test_what_is_recorded_makes_the_result(plain, pyramid, params):
    """Candidates times their weights, their mean, then the larger of two lines: each map after a block."""
    out, blocks = plain
    maps = pyramid
    spatial = jax.jit(SpatialAttention(C, norm_groups=4).apply)
    for number, block in enumerate(blocks):
        candidates = spatial({"params": params[f"block_{number}"]["spatial"]}, maps)
        for level, (own, weights, lines) in enumerate(zip(candidates, block.scale, block.task, strict=True)):
            assert len(own) == len(weights) == (3 if level == 1 else 2)
            mean = sum(float(weight) * np.asarray(x[0]) for weight, x in zip(weights, own, strict=True)) / len(own)
            expected = np.maximum(mean * lines["a1"] + lines["b1"], mean * lines["a2"] + lines["b2"])
            np.testing.assert_allclose(block.after[level], expected, atol=1e-5)
        maps = [jnp.asarray(x)[None] for x in block.after]
        assert block.others == {}
    for last, level in zip(blocks[-1].after, out, strict=True):
        np.testing.assert_array_equal(last, level[0])
    assert len({float(w) for block in blocks for level in block.scale for w in level}) > 4


@pytest.mark.parametrize("form", [*(pytest.param(f, marks=pytest.mark.long) for f in FORMS[1:3]), FORMS[3]], ids=named)
def test_scanned_and_rematerialised_blocks_record_the_same(form, plain, pyramid, params):
    out, blocks = record(DyHead(2, C, norm_groups=4, **form), {"params": arranged(params, form)}, pyramid)
    assert len(blocks) == 2

    def arrays(value):
        return jax.tree.leaves([out, [(b.after, b.kernels, b.scale, b.task) for b in value]])

    for got, expected in zip(arrays(blocks), arrays(plain[1]), strict=True):
        np.testing.assert_allclose(got, expected, atol=2e-5)


@pytest.mark.parametrize("kind", ["atss", *(pytest.param(k, marks=pytest.mark.long) for k in KINDS if k != "atss")])
def test_every_detector_is_recorded(kind):
    detector, options = KINDS[kind]
    loaded = trained.loaded(detector, options, trained=False, num_blocks=1)
    image = np.random.default_rng(0).integers(0, 256, (40, 50, 3), np.uint8)
    got = Recorder(loaded)(image)
    assert got.size == (64, 80)
    assert got.scale == pytest.approx((64 / 40, 80 / 50))
    assert got.sizes == [(8, 12), (4, 6), (2, 3)]
    assert got.strides == (8, 16, 32)
    (block,) = got.blocks
    assert {name: list(levels) for name, levels in block.kernels.items()} == {
        "mid": [0, 1, 2],
        "low": [1, 2],
        "high": [0, 1],
    }
    assert list(block.kernels) == list(KERNELS)
    assert [len(weights) for weights in block.scale] == [2, 3, 2]
    assert [x.shape for x in block.after] == [x.shape for x in got.before]


def test_a_head_without_blocks_is_named():
    image = np.zeros((40, 50, 3), np.uint8)
    with pytest.raises(RecordError, match="has no DyHead blocks"):
        Recorder(trained.loaded(trained=False, num_blocks=0))(image)


def test_values_of_another_form_are_kept_as_others():
    arrays = {"offsets": [np.zeros((1, 8, 11, 8, 2))], "weights": [np.zeros((1, 8, 11, 8))]}
    recorded = {
        "__call__": ([np.zeros((1, *size, C)) for size in SIZES],),
        "spatial": {"mid": (arrays,), "inner": {"map": (np.ones((1, 4, 6)),)}},
        "scale": {"weights": (np.ones((1, 3)),)},
        "task": {"coefficients": tuple(np.full((1, C), i) for i in range(3)), "temperature": (np.float32(2),)},
    }
    block = read_block(recorded, SIZES)
    assert (block.kernels, block.scale, block.task) == ({}, [], [])
    assert {name: value.shape for name, value in block.others.items()} == {
        "spatial/mid/offsets/0": (8, 11, 8, 2),
        "spatial/mid/weights/0": (8, 11, 8),
        "spatial/inner/map": (4, 6),
        "scale/weights": (3,),
        "task/coefficients/0": (C,),
        "task/coefficients/1": (C,),
        "task/coefficients/2": (C,),
        "task/temperature": (),
    }
