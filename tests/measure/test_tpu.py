"""What is read from optimised programs, and, where libtpu is installed, that it compiles a training step for a TPU."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache
from jax.extend.core import jaxpr_as_fun

from dyhead_jax import benchmark
from dyhead_jax.backbones import resnet
from dyhead_jax.command import UsageError
from dyhead_jax.measure import hlo, tpu, tpu_compile, tpu_forms
from dyhead_jax.ops.backend import Backend
from dyhead_jax.ops.deform_conv import deform_conv, dispatch
from dyhead_jax.ops.narrow_conv import narrow_conv
from dyhead_jax.training import parallel

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason='needs libtpu, the TPU compiler: pip install -e ".[tpu,test]"'
)

# A loop of 9 rounds, in it one of 4; in that a gather inside a fusion.
PROGRAM = """\
HloModule jit_step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(%a, %b)
}

%fused (p: bf16[50,8], q: s32[7]) -> bf16[7,8] {
  %p = bf16[50,8]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %gather.1 = bf16[7,8]{1,0:T(8,128)(2,1)S(1)} gather(%p, %q), offset_dims={1}
}

%inner_cond (s: (s32[])) -> pred[] {
  %constant.4 = s32[] constant(4)
  ROOT %lt.1 = pred[]{:T(512)} compare(%counter, %constant.4), direction=LT
}

%inner_body (s: (s32[])) -> (s32[]) {
  %fusion.1 = bf16[7,8]{1,0} fusion(%x, %i), kind=kCustom, calls=%fused, metadata={op_name="jit(step)/gather"}
}

%outer_cond (s: (s32[])) -> pred[] {
  %constant.9 = s32[]{:T(128)} constant(9)
  ROOT %lt.2 = pred[]{:T(512)} compare(%counter, %constant.9), direction=LT
}

%outer_body (s: (s32[])) -> (s32[]) {
  %while.1 = (s32[]{:T(128)}, /*index=1*/f32[4]{0}) while(%tuple.1), condition=%inner_cond, body=%inner_body
  %all-reduce.1 = (f32[3,5]{1,0:T(8,128)}, f32[]{:T(128)}) all-reduce(%g, %l), to_apply=%add
}

%unknown_cond (s: (s32[])) -> pred[] {
  ROOT %ne = pred[] compare(%counter, %end), direction=NE
}

ENTRY %main (x: f32[16]) -> f32[16] {
  %while.2 = (s32[]{:T(128)}) while(%tuple.2), condition=%outer_cond, body=%outer_body
  %while.3 = (s32[]{:T(128)}) while(%tuple.3), condition=%unknown_cond, body=%fused
  %all-gather-start.1 = (f32[4]{0}, f32[16]{0}) all-gather-start(%x), metadata={op_name="jit(step)/top_k"}
  ROOT %all-gather-done.1 = f32[16]{0} all-gather-done(%all-gather-start.1)
}
"""


def test_what_a_loop_holds_counts_as_often_as_it_runs():
    module = hlo.parse(PROGRAM)
    assert module.entry == "main"
    times = {name: module.times[name] for name in ("main", "outer_body", "inner_body", "fused")}
    assert times == {
        "main": 1,
        "outer_body": 9,
        "inner_body": 36,
        "fused": 37,
    }  # once more in the loop of unknown length
    assert [(i.name, n) for i, n in module.of_kind("gather")] == [("gather.1", 37)]


def test_collectives_are_counted_with_their_bytes():
    module = hlo.parse(PROGRAM)
    assert tpu_compile.collectives(module) == {
        "all-gather": {"count": 1, "bytes": 64},
        "all-reduce": {"count": 9, "bytes": 9 * (4 * 15 + 4)},
    }
    (gathered,) = (i for i, _ in module.of_kind("all-gather"))
    assert gathered.op_name == "jit(step)/top_k"


def test_a_text_that_is_no_program_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        hlo.parse("hello")


def test_the_program_of_this_machine_is_read_too():
    def step(x):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, None, length=5)[0]

    module = hlo.parse(jax.jit(step).lower(jnp.eye(40)).compile().as_text())
    assert 5 in module.times.values()


def test_outer_loops_are_unrolled_by_a_number_and_inner_ones_wholly():
    def run(x):
        inner = lambda c, _: (jnp.sin(c @ c), None)  # noqa: E731
        outer = lambda c, _: (jax.lax.scan(inner, c @ c, None, length=4)[0], None)  # noqa: E731
        return jax.jit(lambda y: jax.lax.scan(outer, y @ y, None, length=6)[0])(x)

    x = jnp.linspace(0, 1, 9).reshape(3, 3)
    program = jax.make_jaxpr(run)(x)
    for rounds in (1, 3, 6):
        function = jax.jit(jaxpr_as_fun(tpu.unrolled(program, rounds)))
        module = hlo.parse(function.lower(x).compile().as_text())
        assert len([i for i in module.instructions if i.kind == "dot"]) == 1 + rounds * 5
        assert jnp.allclose(function(x)[0], run(x), atol=1e-6)


def test_short_loops_are_unrolled_wholly():
    def run(x, length):
        return jax.lax.scan(lambda c, _: (jnp.sin(c @ c), None), x, None, length=length)[0]

    for length, dots in ((tpu.SHORT, tpu.SHORT), (tpu.SHORT + 2, 1)):
        program = jax.make_jaxpr(lambda x, n=length: run(x, n))(jnp.eye(3))
        assert list(tpu._rounds(program.jaxpr)) == ([] if length <= tpu.SHORT else [length])
        module = hlo.parse(jax.jit(jaxpr_as_fun(tpu.unrolled(program, 1))).lower(jnp.eye(3)).compile().as_text())
        assert len([i for i in module.instructions if i.kind == "dot"]) == dots


def test_programs_for_tpus_have_no_form_of_the_cpu():
    x, kernel = jnp.zeros((1, 8, 8, 64)), jnp.zeros((3, 3, 64, 4))

    def run(x, kernel):
        return narrow_conv(resnet.max_pool(x), kernel)

    here = str(jax.make_jaxpr(run)(x, kernel))
    there = str(tpu.traced(run, x, kernel))  # although it was traced before
    for operation in ("reduce_window", "conv_general_dilated"):
        assert operation in there
        assert (operation in here) == (jax.default_backend() != "cpu")


def test_programs_for_tpus_have_the_deformable_convolution_of_tpus():
    x, offsets, kernel = jnp.zeros((1, 40, 40, 8)), jnp.zeros((1, 40, 40, 9, 2)), jnp.zeros((3, 3, 8, 4))

    def program(implementation):
        run = lambda x, o, k: deform_conv(x, o, None, k, padding=1, implementation=implementation)  # noqa: E731
        return re.sub(r"0x\w+", "", str(tpu.traced(run, x, offsets, kernel)))

    assert program("auto") == program("windows") != program("gather")


def test_where_a_growing_ratio_crosses_one():
    assert tpu_forms.crossing({100: 0.5, 1600: 2.0}) == 400
    assert tpu_forms.crossing({100: 0.5, 200: 0.9}) == 200
    assert tpu_forms.crossing({100: 1.5}) == 0


def test_the_choice_on_tpus_is_that_of_the_table_in_the_results():
    table = (Path(__file__).parents[2] / "benchmarks/results/tpu_forms_v5e.md").read_text()
    [(pixels, large)] = re.findall(r"`DENSE_PIXELS` (\d+), `LARGE` '(\w+)'", table)
    assert (dispatch.DENSE_PIXELS[Backend.TPU], dispatch.LARGE[Backend.TPU]) == (int(pixels), large)


@pytest.mark.parametrize("command", ["tpu-compile --config=tiny.py", "tpu-forms", "remat --config=tiny.py"])
def test_the_missing_compiler_is_named(command, tmp_path, monkeypatch):
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["benchmark", *command.split(), "--topology=v5e:2x2"])
    with pytest.raises(UsageError, match=r"pip install \"dyhead-jax\[tpu\]\""):
        benchmark.main()


def test_an_unknown_generation_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    with pytest.raises(UsageError, match="--topology=v9:2x2: it must be one of v4, v5e"):
        tpu.devices("v9:2x2")


CONFIG = """
from dyhead_jax.config import *

def get_config():
    return Config(
        model=ModelConfig(
            num_classes=3,
            dtype="bfloat16",
            backbone=ResNetConfig(depth=18, width=8, norm="frozen"),
            neck=FPNConfig(features=16, start=1, levels=2),
            dyhead=DyHeadConfig(num_blocks=1, features=16),
            head=ATSSConfig(kernel=1),
        ),
        data=DataConfig(source=ShapesConfig(), canvases=((64, 64),), short_side=(64,), long_side=64, max_boxes=8),
    )
"""


@pytest.fixture
def uncached():
    """What is compiled for another machine goes into JAX's cache of programs and does not come out again."""
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()
    yield
    jax.config.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()


@needs_libtpu
@pytest.mark.usefixtures("uncached")
def test_a_training_step_for_four_chips(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    arguments = "tpu-compile --config=tiny.py --topology=v5e:2x2 --images-per-chip 1 --json out.json"
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments.split(), "--config.optim.ema=0.9"])
    benchmark.main()
    numbers = json.loads((tmp_path / "out.json").read_text())
    assert (numbers["chips"], numbers["batch"], numbers["implementation"]) == (4, 4, "auto")
    assert numbers["collectives"].keys() == {"all-reduce"}
    assert numbers["collectives"]["all-reduce"]["bytes"] > 1e5  # the gradients
    assert 0 < numbers["hbm_bytes"] < numbers["hbm_of_a_chip_bytes"] == 16 * 2**30
    shown = capsys.readouterr().out
    assert "of 16 GiB (fits)" in shown
    assert "no collective other than all-reduce" in shown


@needs_libtpu
@pytest.mark.usefixtures("uncached")
def test_recomputing_on_a_tpu(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    arguments = "remat --config=tiny.py --batch 1 --topology=v5e:2x2"
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments.split()])
    benchmark.main()
    shown = capsys.readouterr().out
    assert "compiled for v5e:2x2" in shown
    assert "| as they are | " in shown
    assert "| and the backbone's recomputed | " in shown


@needs_libtpu
@pytest.mark.usefixtures("uncached")
def test_a_gathered_batch_is_seen():
    placed = parallel.Jit(tpu.devices("v5e:2x2"))
    whole = jax.ShapeDtypeStruct((64, 128), jnp.float32, sharding=placed.sharded)
    program = tpu.compile_lowered(jax.jit(lambda x: x[::-1] + 1, out_shardings=placed.replicated).lower(whole))
    assert tpu_compile.collectives(program.module).keys() - {"all-reduce"}


@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:3x3", "v5e:x"])
def test_an_impossible_grid_is_named(name):
    with pytest.raises(UsageError, match=f"--topology={name}: "):
        tpu.devices(name)


@needs_libtpu
@pytest.mark.parametrize(("topology", "chips"), [("v4:2x2x4", 16), ("v5p:2x2x1", 4), ("v5e:4x4", 16), ("v6e:4x4", 16)])
def test_a_device_is_a_whole_chip(topology, chips):
    assert len(tpu.devices(topology)) == chips
