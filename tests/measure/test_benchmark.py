"""The timing commands: what they count, that they take turns, and that each runs and writes what it measured."""

import json
import sys

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax import benchmark
from dyhead_jax.backbones import resnet
from dyhead_jax.command import UsageError
from dyhead_jax.measure import block, options, timing
from dyhead_jax.variants.paper_block import PaperBlock


def test_a_program_knows_its_arithmetic_and_traffic():
    a, b = jnp.ones((8, 16)), jnp.ones((16, 4))
    program = timing.compiled("product", lambda a, b: a @ b, a, b)
    assert program.flops == 2 * 8 * 16 * 4
    assert program.moved == 4 * (8 * 16 + 16 * 4 + 8 * 4)
    gradient = timing.compiled("gradients", timing.with_gradients(lambda a, b: a @ b, (0, 1)), a, b)
    assert gradient.flops == 3 * program.flops


def test_gradients_are_of_the_sum_of_squares():
    x = jnp.arange(3.0)
    (gradient,) = timing.with_gradients(lambda x: [2 * x], (0,))(x)
    assert gradient.tolist() == (8 * x).tolist()


def test_programs_take_turns_and_ratios_pair_rounds(monkeypatch):
    seen = []
    programs = [timing.compiled(name, lambda x: x + 1, jnp.ones(3)) for name in "ab"]
    for program in programs:
        program.call = lambda name=program.name: seen.append(name)
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    timing.run_in_turn(programs, repeats=3, warmup=1)
    assert seen == list("ab" * 4)
    first, second = programs
    first.seconds, second.seconds = [1.0, 2.0, 10.0], [2.0, 4.0, 20.0]  # the machine slows down: the ratio does not
    assert timing.ratio(second, first) == 2.0
    assert timing.compare(first, second).startswith("b / a: 2.000 (quartiles 2.000 to 2.000")
    assert first.median == 2.0


@pytest.mark.parametrize(("image", "stride", "expected"), [((800, 1216), 8, (7, 10)), ((100, 60), 8, (1, 1))])
def test_levels_halve(image, stride, expected):
    levels = block.sizes(image, 5, stride)
    assert levels[0] == (-(-image[0] // stride), -(-image[1] // stride))
    assert levels[-1] == expected


CONFIG = """
from dyhead_jax.config import *

def get_config(width="8"):
    return Config(
        model=ModelConfig(
            num_classes=3,
            backbone=ResNetConfig(depth=18, width=8, norm="frozen"),
            neck=FPNConfig(features=16, start=1, levels=2),
            dyhead=DyHeadConfig(num_blocks=1, features=16, task="none" if width == "16" else DyHeadConfig().task),
            head=ATSSConfig(kernel=1),
        ),
        data=DataConfig(source=ShapesConfig(), canvases=((64, 64),), short_side=(64,), long_side=64, batch_size=1),
    )
"""


PARTS = "block --parts --size 32 --levels 2 --channels 16 --forward --attention scale=none task=none"


@pytest.mark.parametrize(
    "arguments",
    [
        ["op", "--size", "5x6", "--channels", "4", "--implementation", "gather", "--implementation", "dense"],
        ["block", "--size", "32x40", "--levels", "2", "--channels", "16", "--forward", "--attention", "task=none"],
        pytest.param(PARTS.split(), marks=pytest.mark.long),
        pytest.param(
            ["head", "--compare", "tiny.py", "tiny.py:16", "tiny.py --config.model.dyhead.norm_groups=4"],
            marks=pytest.mark.long,
        ),
        pytest.param(["train", "--config", "tiny.py"], marks=pytest.mark.long),
        pytest.param(
            ["infer", "--config=tiny.py", "--batch", "2", "--config.model.num_classes=4"], marks=pytest.mark.long
        ),
    ],
    ids=lambda a: a[0],
)
def test_commands(arguments, tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    monkeypatch.setattr(
        timing, "ceilings", lambda dtype: [timing.compiled(n, lambda a: a @ a, jnp.eye(4)) for n in "mc"]
    )
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments, "--repeats", "2", "--json", "out.json"])
    benchmark.main()
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["machine"]["jax"] == jax.__version__
    for program in result["programs"]:
        assert len(program["repeats_s"]) == 2
        assert program["median_s"] > 0
        assert program["name"] in shown
    if "--parts" in arguments:
        parts = [line.split("|")[1].strip() for line in shown.partition("| part ")[2].splitlines()[2:]]
        own = ("spatial", "norms (in the others)", "scale", "task", "rest", "block")
        assert parts == [*(f"auto: {name}" for name in own), *(f"scale=none task=none: {own[i]}" for i in (0, 1, 4, 5))]
    elif arguments[0] == "block":
        table = [line.split("|")[1:-1] for line in shown.partition("| variant")[2].splitlines()[2:]]
        # 2 own, 1 finer and 1 coarser level, each with nine taps of four corners, in three loops
        assert [(row[0].strip(), int(row[3]), row[4].strip()) for row in table] == [
            ("auto", 108, "1.00"),
            ("task=none", 108, table[1][4].strip()),
        ]
        parameters = [int(row[1].replace(",", "")) for row in table]
        assert parameters[0] - parameters[1] == 16 * 4 + 4 + 4 * 64 + 64  # of the task attention
    if "--compare" in arguments:
        for other in arguments[3:]:
            for kind in ("forward", "forward+backward"):
                assert f"{other} {kind} / tiny.py {kind}: " in shown
    if arguments[0] == "infer":
        assert [p["batch"] for p in result["programs"] if p["role"] == "program"] == [2]


def test_the_whole_block_can_be_replaced():
    found = block.attentions(["block=dyhead_jax.variants.paper_block:PaperBlock", "block.reduction=2"])
    assert found["block"].func is PaperBlock
    assert found["block"].keywords == {"reduction": 2}


@pytest.mark.long
def test_remat_compiles_what_it_names(tmp_path, monkeypatch, capsys):
    (tmp_path / "tiny.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    programs = []

    def compiled(name, step, *arguments):  # tracing says what was asked for; five compilations say no more
        text = str(jax.make_jaxpr(step)(*arguments))
        programs.append((text.count("length=3") > 0, text.count("remat2[") + text.count("checkpoint[")))
        return timing.Program(name, lambda: None, 1.0, 0.0, 0.0, timing.MIB * 2.0 ** -len(programs))

    monkeypatch.setattr(timing, "compiled", compiled)
    blocks = ["--config.model.dyhead.num_blocks=3", "--out=table.md"]
    monkeypatch.setattr(sys, "argv", ["benchmark", "remat", "--config=tiny.py", *blocks])
    benchmark.main()
    loops, regions = zip(*programs, strict=True)
    assert loops == (False, True, False, True, True)
    assert regions[:2] == (0, 0)
    assert regions[2] == 3 * regions[3] > 0
    assert regions[4] > regions[3]
    table = (tmp_path / "table.md").read_text()
    assert table == capsys.readouterr().out
    assert table.endswith("| and the backbone's recomputed | 0 | 0.06 | 1.0 |\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["block", "--attention", "tusk=none"], "--attention"),
        (["block", "--attention", "block=none"], "--attention"),
        (["op", "--repeats", "0"], "--repeats"),
        (["op", "--config.model.num_classes=3"], "no config"),
    ],
)
def test_wrong_usage(arguments, reason, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments])
    with pytest.raises(UsageError, match=reason):
        benchmark.main()


def test_sizes_are_read():
    assert options.size("100x152") == (100, 152)
