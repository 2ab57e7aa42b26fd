"""The harness of the timing commands on trivial functions: sweeps, what a row says, what is written and refused."""

import argparse
import json
import xml.etree.ElementTree as ElementTree

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax import command
from dyhead_jax.measure import compilations, harness, options, picture, report, timing
from dyhead_jax.measure.harness import Case, Job
from dyhead_jax.measure.timing import Setting


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(timing, "SHORTEST", 0.0)
    tops = [timing.compiled(name, lambda a: a @ a, jnp.eye(4)) for name in ("matmul 4", "copy")]
    monkeypatch.setattr(timing, "ceilings", lambda dtype: [again(top) for top in tops])
    unit = timing.compiled("lax.conv 3x3 (yardstick)", lambda a: a + 1, jnp.eye(4))
    monkeypatch.setattr(timing, "yardstick", lambda *_: again(unit))


def again(program):
    return timing.Program(program.name, program.call, 0.0, program.flops, program.moved, 0.0)


def asked(*arguments, size=(8, 8)):
    parser = command.parser("benchmark", "")
    options.add(parser, size, "the map")
    result = command.parse(parser, arguments)
    options.check(result)
    return result


def cases(given, *functions):
    """A case for each setting, which applies the functions to a map of ones."""

    def jobs(setting):
        x = jnp.ones((setting.batch, *setting.size), setting.dtype)
        return [Job(f.__name__, f, (x,), setting) for f in functions]

    return [Case(s, 1, s.size, lambda s=s: jobs(s)) for s in options.settings(given)]


def double(x):
    return 2 * x


def product(x):
    return jnp.einsum("bij,bkj->bik", x, x)


def rows(text):
    """The cells of the table by its headings."""
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    return [dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]]


def test_a_sweep_has_a_row_for_every_combination_in_one_table_and_one_file(tmp_path, capsys):
    files = "--json", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.svg")
    given = asked("--batch", "1,2", "--size", "4x6", "--dtype", "float32,bfloat16", "--repeats", "4", *files)
    made = harness.measure("trivial", cases(given, double, product), given)
    assert harness.exit_code(made) == 0
    found = rows(capsys.readouterr().out)
    assert len(found) == 2 * 2 * 2
    assert [tuple(row[name] for name in ("program", "batch", "dtype")) for row in found[:3]] == [
        ("double", "1", "float32"),
        ("product", "1", "float32"),
        ("double", "1", "bfloat16"),
    ]
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["options"] == {
        "batch": [1, 2],
        "dtype": ["float32", "bfloat16"],
        "forward": False,
        "overrides": [],
        "repeats": 4,
        "size": [[4, 6]],
    }
    measured = [entry for entry in result["programs"] if entry["role"] == "program"]
    assert len(measured) == len(found)
    assert len(result["programs"]) == len(found) + 4 * 3
    largest = measured[-1 - 2]  # float32
    assert [largest[key] for key in ("name", "batch", "height", "width", "dtype")] == ["product", 2, 4, 6, "float32"]
    assert largest["flops"] == largest["xla_operations"] == 2 * 2 * 4 * 4 * 6
    assert (largest["argument_bytes"], largest["result_bytes"]) == (4 * 48, 4 * 32)
    assert largest["memory_bytes"] == largest["temporary_bytes"] + 4 * 80
    assert (largest["compilations"] <= 1, largest["recompilations"]) == (True, 0)
    drawn = ElementTree.parse(tmp_path / "out.svg").getroot()
    assert drawn.tag.endswith("svg")


def test_a_buffer_that_is_argument_and_result_is_held_once():
    sizes = {"temporaries": 5, "arguments": 100, "results": 90, "aliased": 80}
    program = timing.Program("f", call=lambda: None, compile_s=0, flops=0, moved=0, **sizes)
    assert program.memory == 5 + 100 + 10


def test_one_setting_stands_in_the_title_and_not_in_the_table(capsys):
    given = asked("--repeats", "1")
    harness.measure(options.titled("trivial", options.settings(given)), cases(given, double), given)
    shown = capsys.readouterr().out
    assert shown.startswith("trivial, 1x8x8, float32\n")
    assert not rows(shown)[0].keys() & {"batch", "size", "dtype"}


def test_a_program_that_does_not_fit_is_named_and_the_others_are_timed(tmp_path, capsys):
    def huge(x):
        return jnp.sum(x) + jnp.arange(2.0**46)

    given = asked("--repeats", "1", "--json", str(tmp_path / "out.json"))
    made = harness.measure("trivial", cases(given, double, huge), given)
    assert harness.exit_code(made) == 1
    shown = capsys.readouterr().out
    assert [row["program"] for row in rows(shown)] == ["double"]
    assert "not timed, since it does not fit: huge (1x8x8, float32): RESOURCE_EXHAUSTED" in shown
    (failed,) = json.loads((tmp_path / "out.json").read_text())["failed"]
    assert (failed["name"], failed["height"]) == ("huge", 8)


def test_a_line_joins_the_settings_of_a_program(capsys):
    given = asked("--size", "8,4", "--batch", "1", "--repeats", "1")
    made = harness.measure("trivial", cases(given, double, product), given)
    found = picture.lines(made)
    assert list(found) == [("double", "", ""), ("product", "", "")]
    assert [picture.pixels(p) for p in found["double", "", ""]] == [16, 64]
    given = asked("--size", "8,4", "--batch", "1,2", "--dtype", "float32,float16", "--repeats", "1")
    made = harness.measure("trivial", cases(given, double), given)
    assert set(picture.lines(made)) == {("double", d, b) for d in ("float32", "float16") for b in "12"}
    capsys.readouterr()


def test_compilations_are_counted():
    double = jax.jit(lambda x: x * 2.5)
    x, y = jnp.ones(3), jnp.ones(5)
    with compilations.counted() as first:
        double(x)
    with compilations.counted() as again:
        double(x)
    with compilations.counted() as other_shape:
        double(y)
    assert (first.compiled + first.cached, again.compiled + again.cached) == (1, 0)
    assert other_shape.compiled + other_shape.cached == 1


def test_a_program_that_compiles_while_it_is_timed_is_named(capsys):
    given = asked("--repeats", "2")
    made = harness.measure("trivial", cases(given, double), given)
    (program,) = made.groups[0].programs
    assert program.recompilations == 0
    assert "while timed" not in capsys.readouterr().out
    sizes = iter(range(100, 200))
    program.call = lambda: jax.jit(lambda x: x - 0.5)(jnp.ones(next(sizes)))
    program.seconds.clear()
    timing.run_in_turn([program], repeats=2, warmup=1)
    assert program.recompilations >= 3
    assert "double (1x8x8, float32) compiled" in made.text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--json", "missing/out.json"), "--json=missing/out.json cannot be written: there is no folder missing"),
        (("--json", "."), "--json=. cannot be written: it is a folder"),
        (("--json", "file/out.json"), "--json=file/out.json cannot be written: there is no folder file"),
        (("--json", "/proc/out.json"), "--json=/proc/out.json cannot be written: "),
        (("--plot", "out.txt"), "--plot=out.txt: the name must end with .png, .svg, .pdf"),
        (("--plot", "missing/out.png"), "--plot=missing/out.png cannot be written: "),
        (("--plot", "out.png", "--json", "./out.png"), "another option names the same place"),
        (("--trace", "file"), "--trace=file cannot be written: File exists"),
        (("--trace", "file/inside"), "--trace=file/inside cannot be written: Not a directory"),
        (("--batch", "1,0"), "--batch: '0' is not a number of at least 1"),
        (("--batch", "2,2"), "--batch: '2,2' has a value twice"),
        (("--size", "512,x3"), "--size: 'x3' is not HEIGHTxWIDTH"),
        (("--size", "512,512x512"), "has a value twice"),
        (("--dtype", "float32,float8"), "--dtype: 'float8' is not one of float32, bfloat16, float16"),
    ],
)
def test_what_cannot_be_done_is_refused_before_the_work(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("kept")
    with pytest.raises(command.UsageError) as error:
        asked(*arguments)
    assert message in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert (tmp_path / "file").read_text() == "kept"


def test_a_file_that_is_there_is_kept_until_the_result_replaces_it(tmp_path):
    old = tmp_path / "out.json"
    old.write_text("before")
    asked("--json", str(old))
    assert old.read_text() == "before"
    assert list(tmp_path.iterdir()) == [old]


def test_numbers_have_three_digits():
    assert [report.number(x) for x in (0.0, 0.000896, 0.00123456, 0.5, 12.345, 4567.8)] == [
        "0",
        "9.0e-04",
        "0.00123",
        "0.500",
        "12.3",
        "4568",
    ]
    assert [report.share(x, 1.0) for x in (0.0012, 0.0996, 0.5)] == ["0.1%", "10%", "50%"]


@pytest.mark.long
def test_a_trace_has_the_names_of_the_programs(tmp_path, capsys):
    given = asked("--repeats", "1", "--size", "4,8", "--trace", str(tmp_path / "trace"))
    harness.measure("trivial", cases(given, double), given)
    assert f"xprof --logdir {tmp_path / 'trace'}" in capsys.readouterr().out
    for folder in ("1x4x4_float32", "1x8x8_float32"):
        (file,) = (tmp_path / "trace" / folder).glob("plugins/profile/*/*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
        events = [event.name for plane in data.planes for line in plane.lines for event in line.events]
        assert events.count("double") == 3


def test_configs_are_changed_by_options_of_their_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = command.parser("benchmark", "")
    options.add_configs(parser)
    words = ["--compare", "demo_shapes", "demo_shapes --config.model.dyhead.num_blocks=1", "--batch", "1,2"]
    given = command.parse(parser, [*words, "--dtype", "bfloat16", "--config.model.num_classes=5"])
    found = options.config_settings(given)
    assert [[name for name, _ in configs] for configs in found] == [words[1:3]] * 2
    assert [config.model.dyhead.num_blocks for _, config in found[0]][1] == 1
    assert {config.model.num_classes for configs in found for _, config in configs} == {5}
    settings = [options.setting_of(config) for configs in found for _, config in configs]
    size = settings[0].size
    assert settings == [Setting(b, size, "bfloat16") for b in (1, 1, 2, 2)]
    with pytest.raises(command.UsageError, match="--compare demo_shapes: name at least two configs"):
        options.check(argparse.Namespace(compare=["demo_shapes"]))
