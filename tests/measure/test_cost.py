"""Counts of parameters and multiply-adds: by hand, against the reference's table, and through the command."""

import json
import sys
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax import benchmark, command
from dyhead_jax.config import ATSSConfig, DyHeadConfig, FPNConfig, ModelConfig, ResNetConfig
from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import cost
from dyhead_jax.measure.multiply_adds import multiply_adds
from dyhead_jax.ops import backend, depthwise
from dyhead_jax.ops.deform_conv import deform_conv
from dyhead_jax.ops.resize import upsample_align_corners

NHWC = ("NHWC", "HWIO", "NHWC")


def count(function, *shapes):
    program = jax.make_jaxpr(function)(*(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return multiply_adds(program, ()).total()


def test_convolutions_and_products_by_hand():
    conv = partial(jax.lax.conv_general_dilated, window_strides=(2, 2), padding="SAME", dimension_numbers=NHWC)
    assert count(conv, (1, 8, 6, 5), (3, 3, 5, 7)) == 4 * 3 * 7 * 9 * 5
    assert count(partial(conv, feature_group_count=2), (1, 8, 6, 8), (3, 3, 4, 6)) == 4 * 3 * 6 * 9 * 4
    assert count(jnp.matmul, (2, 3, 4), (2, 4, 5)) == 2 * 3 * 5 * 4
    assert count(jax.jit(lambda x, w: x @ w), (3, 4), (4, 5)) == 60


def test_a_loop_counts_as_often_as_it_runs():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (jax.nn.relu(jax.checkpoint(jnp.matmul)(c, w)), None), x, length=7)[0]

    assert count(loop, (3, 4), (4, 4)) == 7 * 48


def test_what_a_loop_carries_may_come_to_depend_on_the_inputs():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (jnp.tanh(c @ w) + x, None), jnp.zeros((3, 4)), length=7)[0]

    assert count(loop, (3, 4), (4, 4)) == 7 * 48


def test_what_no_parameter_meets_is_not_counted():
    assert count(lambda x: upsample_align_corners(x, (8, 12)), (1, 4, 6, 5)) == 0
    assert count(lambda x: jnp.tanh(x) * 3 + x.sum(), (4, 5)) == 0


def test_a_constant_that_all_rounds_share_is_not_counted():
    def loop(x, w):
        return jax.lax.scan(lambda c, _: (upsample_align_corners(c @ w, (4, 6)), None), x, length=7)[0]

    assert count(loop, (1, 4, 6, 5), (5, 5)) == 7 * 4 * 6 * 5 * 5


def test_scanned_blocks_count_as_blocks():
    pyramid = [jax.ShapeDtypeStruct((1, n, n, 8), jnp.float32) for n in (8, 4)]
    found = []
    for scan in (False, True):
        head = DyHead(num_blocks=3, features=8, norm_groups=4, scan=scan)
        variables = jax.eval_shape(head.init, jax.random.key(0), pyramid)
        found.append(multiply_adds(jax.make_jaxpr(head.apply)(variables, pyramid), ("spatial", "scale", "task")))
    assert found[0] == found[1]
    assert found[0]["spatial"] > 0


def test_a_deformable_convolution_counts_as_a_plain_one():
    shapes = (1, 6, 8, 4), (1, 6, 8, 9, 2), (1, 6, 8, 9), (3, 3, 4, 10)
    assert count(partial(deform_conv, padding=1), *shapes) == 6 * 8 * 9 * 4 * 10


def test_a_grouped_convolution_is_counted_without_the_zeros_of_its_dense_form():
    shapes = (1, 6, 8, 64), (3, 3, 8, 64)
    with backend.tracing_for("gpu"):
        assert count(partial(depthwise.grouped_conv, groups=8), *shapes) == 6 * 8 * 64 * 9 * 8
    assert count(partial(depthwise.grouped_conv, groups=8), *shapes) > 6 * 8 * 64 * 9 * 8  # on this CPU


def atss(blocks: int, **head) -> ModelConfig:
    """A backbone of nothing, and everything behind it as in the paper."""
    return ModelConfig(
        backbone=ResNetConfig(depth=18, width=2),
        neck=FPNConfig(),
        dyhead=DyHeadConfig(num_blocks=blocks),
        head=ATSSConfig(**head),
    )


BLOCKS = {1: 21.2, 2: 42.4, 4: 84.8, 6: 127.3, 8: 169.7, 10: 212.1}


@pytest.mark.parametrize(
    ("blocks", "billions"),
    [pytest.param(*row, marks=[] if row[0] == 1 else pytest.mark.long) for row in BLOCKS.items()],
)
def test_blocks_cost_what_the_reference_says(blocks, billions):
    counted = cost.measure(atss(blocks), (800, 1344))
    assert counted.parameters["dyhead"] == blocks * 1_917_276
    assert counted.multiply_adds["dyhead"] == pytest.approx(billions * 1e9, rel=0.01)
    assert counted.multiply_adds["neck"] > 0


def test_towers_cost_what_the_reference_says():
    counted = cost.measure(atss(0, towers=4, kernel=3), (800, 1344))
    towers = ("class_tower", "box_tower")
    assert sum(counted.parameters[name] for name in towers) == 8 * (9 * 256 * 256 + 2 * 256)  # 4.7 M
    assert sum(counted.multiply_adds[name] for name in towers) == pytest.approx(105.7e9, rel=0.01)
    assert counted.parameters["dyhead"] == counted.multiply_adds["dyhead"] == 0
    assert set(counted.multiply_adds) == set(counted.parameters)  # nothing outside the modules


def test_switched_off_attentions_cost_less():
    model = atss(1)
    model.dyhead.scale = model.dyhead.spatial = model.dyhead.task = "none"
    assert cost.measure(model, (64, 64)).parameters["dyhead"] == 3 * (9 * 256 * 256 + 3 * 256)


CONFIG = """
from dyhead_jax.config import *
def get_config(blocks="1"):
    backbone = ResNetConfig(depth=18, width=2)
    dyhead = DyHeadConfig(num_blocks=int(blocks), features=32)
    return Config(model=ModelConfig(backbone=backbone, neck=FPNConfig(features=32), dyhead=dyhead))
"""


@pytest.fixture
def run(monkeypatch, tmp_path, capsys):
    path = tmp_path / "c.py"
    path.write_text(CONFIG)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["benchmark", *(str(a).replace("FILE", str(path)) for a in arguments)])
        benchmark.main()
        return capsys.readouterr().out

    return call


def test_the_command(run, tmp_path):
    out = tmp_path / "cost.json"
    text = run("cost", "--config=FILE:0", "--config=FILE:2", "--size=60x90", "--json", out)
    assert text.startswith("one image of 64x96;")
    rows = [line.split("|")[1:-1] for line in text.splitlines()[2:]]
    assert [cell.strip() for cell in rows[0]] == ["config", "backbone", "neck", "dyhead", "head", "all"]
    assert [rows[i][0].strip().rpartition(":")[2] for i in (2, 3)] == ["0", "2"]
    assert rows[2][3].strip() == "0.00 M, 0.0 G"
    counted = list(json.loads(out.read_text())["configs"].values())
    assert counted[1]["parameters"]["dyhead"] > 0 == counted[0]["parameters"]["dyhead"]

    text = run("cost", "--config=FILE", "--size=64x64", "--config.model.dyhead.num_blocks=0")
    parts = {line.split("|")[1].strip(): line.split("|")[2].strip() for line in text.splitlines()[4:]}
    assert parts["dyhead"] == "0.00"
    assert parts["all"] == f"{sum(counted[0]['parameters'].values()) / 1e6:.2f}"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--config=FILE", "--config.model.dyhed.features=3"), "did you mean 'dyhead'"),
        (("--config=FILE", "--sise=3"), "'--sise=3' is not an option"),
    ],
)
def test_wrong_arguments_are_named(run, arguments, message):
    with pytest.raises(command.UsageError, match=message):
        run("cost", *arguments)


@pytest.mark.parametrize("size", ["800", "0x5", "800x1333x3"])
def test_a_wrong_size_is_named(run, size):
    with pytest.raises(command.UsageError, match=f"argument --size: '{size}' is not HEIGHTxWIDTH"):
        run("cost", "--config=FILE", f"--size={size}")
