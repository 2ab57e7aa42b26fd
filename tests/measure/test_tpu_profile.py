"""What a TPU program is made of: the operations of optimised HLO, their parts and floors, and the command."""

import gzip
import importlib.util
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from dyhead_jax import benchmark
from dyhead_jax.backbones import resnet
from dyhead_jax.command import UsageError
from dyhead_jax.measure import hlo_costs, model_parts, profile_report
from tests.measure.test_tpu import CONFIG, needs_libtpu, uncached  # noqa: F401

# In the form that libtpu writes. A copy into the chip's memory, S(1); a fusion that reads it and one row of a map in
# HBM, and one that puts a row into a map; both in a loop of 4 rounds.
PROGRAM = (Path(__file__).parent / "loop.hlo").read_text()
ROW, MAP = 4 * 128, 4 * 100 * 128


def test_operations_are_what_runs_by_itself_with_its_slices_and_updates():
    found = {o.name: o for o in hlo_costs.operations(PROGRAM)}
    assert found.keys() == {"copy-start", "read", "write", "less", "scaled"}
    assert [(o.cycles, o.times) for o in found.values() if o.cycles] == [(1000, 1), (300, 4), (200, 4)]
    assert found["copy-start"].moved == ROW
    assert found["read"].moved == ROW + 4  # one row of the map and the counter
    assert found["read"].scope.endswith("spatial._deform/slice")  # that of what is inside
    assert found["write"].moved == ROW + 4  # the new row; what it replaces is not read
    assert found["scaled"].moved == 3 * MAP


@pytest.mark.parametrize(
    "spelling", ["branch_computations={%narrow, %wide}", "true_computation=%narrow, false_computation=%wide"]
)
def test_of_several_branches_the_first_counts(spelling):
    branches = """
%narrow (n: f32[4]) -> f32[4] {
  ROOT %short = f32[4]{0} negate(%n), backend_config={"window_config":{"estimated_cycles":"10"}}
}

%wide (w: f32[4]) -> f32[4] {
  ROOT %long = f32[4]{0} negate(%w), backend_config={"window_config":{"estimated_cycles":"90"}}
}

ENTRY %main (x: f32[4], i: s32[]) -> f32[4] {
  ROOT %chosen = f32[4]{0} conditional(%i, %x, %x), SPELLING
}""".replace("SPELLING", spelling)
    assert [operation.name for operation in hlo_costs.operations(branches)] == ["short"]


def test_time_arithmetic_and_bytes_stand_by_part():
    operations = hlo_costs.operations(PROGRAM)
    peak = profile_report.Peak(flops=1e9, bandwidth=1e9, clock=1e6)
    parts = profile_report.parts_of(operations, {"DyHead: deformable convolutions": 5e4}, peak)
    assert [*parts] == ["DyHead: deformable convolutions", "DyHead: task", "update", "made by the compiler"]
    deform = parts["DyHead: deformable convolutions"]
    assert deform.seconds == {"forward": 1.2e-3, "recomputed": 0.0, "backward": 0.0, "update": 0.0}
    assert parts["DyHead: task"].seconds["recomputed"] == 8e-4
    assert deform.floors(peak) == (5e-5, pytest.approx(4 * (ROW + 4) / 1e9))
    table = profile_report.part_table(parts, peak).splitlines()
    assert [cell.strip() for cell in table[2].split("|")[1:4]] == ["DyHead: deformable convolutions", "1.20", "40%"]
    assert table[2].split("|")[-2].strip() == "24.0"  # 1.2 ms over .05 ms
    assert [cell.strip() for cell in table[-1].split("|")[1:3]] == ["all", "3.00"]
    assert "`slice`" in profile_report.operation_table(operations, peak, count=2)
    assert "`mul`" not in profile_report.operation_table(operations, peak, count=1).splitlines()[3:]


def test_every_part_with_products_is_one_that_operations_have():
    assert {*model_parts.PRODUCTS.values()} <= {*model_parts.NAMES}


@pytest.mark.parametrize(
    ("scope", "part", "stage"),
    [
        ("jit(step_fn)/jvp(ATSS.losses)/ATSS.features/backbone/conv", "backbone", "forward"),
        ("jit(step_fn)/transpose(jvp(ATSS.losses))/ATSS.features/neck/conv", "neck", "backward"),
        ("jit(step_fn)/transpose(jvp(ATSS.losses))/rematted_computation/blocks/task/mul", "DyHead: task", "recomputed"),
        ("jit(step_fn)/transpose(jvp(ATSS.losses))/reshape", "rest of the model", "backward"),
        ("jit(step_fn)/mul", "update", "update"),
        ("batch.images", "made by the compiler", "forward"),
    ],
)
def test_a_scope_tells_part_and_pass(scope, part, stage):
    assert (model_parts.part_of(scope), model_parts.pass_of(scope)) == (part, stage)


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmark", "tpu-profile", *map(str, arguments)])
        benchmark.main()
        return capsys.readouterr().out

    return call


STORED = {
    "format": 1,
    "title": "a loop",
    "topology": "v5e:2x2",
    "facts": {"libtpu": "0"},
    "hbm": {"arguments": 2**30, "outputs": 2**30, "aliased": 2**30, "temporaries": 2**29},
    "optimal": 0.001,
    "unknown": 2,
    "compile_s": 1.0,
    "flops": {"DyHead: task": 1e9},
    "text": PROGRAM,
}


def test_a_stored_program_is_shown_and_drawn(run, tmp_path):
    (tmp_path / "kept.gz").write_bytes(gzip.compress(json.dumps(STORED).encode()))
    shown = run("--program", "kept.gz", "--plot", "bars.png", "--write", "page.md")
    assert "HBM: 1.50 of 16 GiB (fits)" in shown
    assert "1.0 ms and 2 operation(s) that it has none for" in shown
    assert (tmp_path / "page.md").read_text() == shown
    with Image.open(tmp_path / "bars.png") as picture:
        assert picture.width > 500


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        gzip.compress(b"{}"),
        gzip.compress(b"[1]"),
        gzip.compress(b"[" * 99_999),
        gzip.compress(b"\xff"),
        gzip.compress(b"{}")[:10] + b"\xff" * 20,
    ],
    ids=["no gzip", "no fields", "no mapping", "nested", "no text", "damaged"],
)
def test_another_file_is_refused(run, tmp_path, data):
    (tmp_path / "kept.gz").write_bytes(data)
    with pytest.raises(ValueError, match=r"^kept\.gz: not a program that --keep stored$"):
        run("--program", "kept.gz")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--what=step needs --config=FILE"),
        (["--what", "op", "--config.model.dtype=float32"], "--what=op has no config"),
        (["--program", "kept.gz", "--config", "tiny.py"], "--program=kept.gz is compiled already"),
        (["--what", "op", "--plot", "bars.txt"], "the name must end with .png, .svg, .pdf"),
        (["--what", "op", "--keep", "nowhere/kept.gz"], "--keep=nowhere/kept.gz cannot be written"),
        (["--what", "op", "--write", "nowhere/page.md"], "--write=nowhere/page.md cannot be written"),
    ],
)
def test_what_does_not_fit_is_refused_before_compiling(run, arguments, message):
    with pytest.raises(UsageError, match=message):
        run(*arguments)


@needs_libtpu
@pytest.mark.usefixtures("uncached")
def test_the_parts_of_a_training_step(run, tmp_path, monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    (tmp_path / "tiny.py").write_text(CONFIG)
    changes = ["--config.model.dyhead.remat=True", "--config.model.dyhead.scan=True"]
    shown = run("--config=tiny.py", "--keep", "kept.gz", *changes)
    for name in set(model_parts.NAMES) - {model_parts.OTHER, "DyHead: rest of spatial", "DyHead: rest"}:
        assert f"| {name} " in shown
    for name in model_parts.PASSES:
        assert f" {name} |" in shown
    again = run("--program", "kept.gz")
    assert again.splitlines()[1:] == shown.splitlines()[1:]  # all but the command
    stored = json.loads(gzip.decompress((tmp_path / "kept.gz").read_bytes()))
    assert {*stored["flops"]} >= {"backbone", "neck", "DyHead: offsets", "DyHead: deformable convolutions"}


def test_tables_that_could_not_be_written_are_refused_before_compiling(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "tpu-forms", "--write", str(tmp_path / "nowhere" / "page.md")])
    with pytest.raises(UsageError, match=r"page\.md cannot be written"):
        benchmark.main()


def test_the_missing_compiler_is_named(run, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install \"dyhead-jax\[tpu\]\""):
        run("--what", "op")
