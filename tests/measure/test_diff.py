"""Two saved results beside each other."""

import copy
import json
import sys

import pytest

from dyhead_jax import benchmark, command
from dyhead_jax.measure import diff

UNIT = [1.0, 2.0, 1.0, 2.0]


def program(name, times, **more):
    return {
        "name": name,
        "role": "program",
        "batch": 1,
        "height": 8,
        "width": 8,
        "dtype": "float32",
        "repeats_s": times,
    } | more


def result(*programs, **more):
    yardstick = program("yard", UNIT, role="yardstick")
    tops = [program(name, UNIT, role="ceiling") for name in ("matmul", "copy")]
    machine = {"date": "2026-11-30", "jax": "0.10.1", "device": "1 x cpu"}
    return {
        "title": "title",
        "machine": machine,
        "environment": {"flags": {}},
        "options": {"repeats": 4},
        "programs": [yardstick, *tops, *programs],
        **more,
    }


def rows(text):
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")][2:]


@pytest.fixture
def compare(tmp_path, monkeypatch, capsys):
    def run(first, second):
        for name, value in (("a.json", first), ("b.json", second)):
            (tmp_path / name).write_text(value if isinstance(value, str) else json.dumps(value))
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys, "argv", ["benchmark", "diff", "a.json", "b.json"])
        assert not benchmark.main()
        return capsys.readouterr().out

    return run


def test_ratios_and_what_lies_within_the_spread(compare):
    steady, half = program("f", [2.0, 4.0, 2.0, 4.0]), program("f", [1.0, 2.0, 1.0, 2.0])
    # the medians differ by less than the machine's own changes; in yardsticks, of the same rounds, the half is clear
    assert rows(compare(result(steady), result(half))) == [
        ["f", "3000.00", "1500.00", "0.500 ~", "66.7%", "0.500", "0.0%"]
    ]
    assert rows(compare(result(steady), result(steady)))[0][3:6] == ["1.000 ~", "66.7%", "1.000 ~"]


@pytest.mark.parametrize("steady_first", [True, False])
def test_a_ratio_is_within_the_spread_of_either_file(compare, steady_first):
    steady, changing = program("f", [1.1] * 4), program("f", [0.5, 1.5, 0.5, 1.5])
    first, second = (steady, changing) if steady_first else (changing, steady)
    assert rows(compare(result(first), result(second)))[0][3:5] == [f"{1.1 ** (1 - 2 * steady_first):.3f} ~", "100.0%"]


def test_programs_are_matched_by_setting_and_what_is_in_one_only_is_named(compare):
    small, large = program("f", [1.0] * 4), program("f", [4.0] * 4, height=16)
    gone, new = program("gone", UNIT), program("f", UNIT, dtype="bfloat16")
    shown = compare(result(large, gone, small), result(small, new, large))
    assert [(row[0], row[1], row[4]) for row in rows(shown)] == [("f", "16", "1.000 ~"), ("f", "8", "1.000 ~")]
    assert "only in A: gone, 1, 8, 8, float32\n" in shown
    assert "only in B: f, 1, 8, 8, bfloat16\n" in shown


def test_each_setting_has_its_own_yardstick(compare):
    first, second = result(program("f", UNIT)), result(program("g", UNIT))
    second["programs"][0]["repeats_s"] = [2 * u for u in UNIT]
    for entry in second["programs"]:
        entry["batch"] = 2
    both = {**first, "programs": [*first["programs"], *second["programs"]]}
    assert [row.yardsticks[0] for row in diff.rows(both, by_setting=True)] == [1.0, 0.5]


def test_other_circumstances_are_named_and_the_date_is_none(compare):
    first = result(program("f", UNIT))
    second = copy.deepcopy(first)
    second["machine"]["date"] = "2026-12-01"
    assert "same hardware, versions and options" in compare(first, second)
    second["machine"]["jax"] = "0.12.0"
    second["environment"]["flags"]["XLA_FLAGS"] = "--x"
    second["options"]["repeats"] = 5
    second["failed"] = [{"name": "big", "reason": "RESOURCE_EXHAUSTED"}]
    shown = compare(first, second)
    for line in (
        "jax: A 0.10.1, B 0.12.0",
        "flags.XLA_FLAGS: A not set, B --x",
        "repeats: A 4, B 5",
        "big did not fit in B: RESOURCE_EXHAUSTED",
    ):
        assert f"{line}\n" in shown


def test_a_result_from_before_roles_and_settings_is_matched_by_name(compare):
    new = result(program("f", UNIT))
    old = {
        "title": "old",
        "machine": new["machine"],
        "programs": [{"name": entry["name"], "repeats_s": entry["repeats_s"]} for entry in new["programs"]],
    }
    shown = compare(old, new)
    assert [row[0] for row in rows(shown)] == ["f"]
    assert "options: only B has it\n" in shown


def test_two_programs_of_one_name_keep_their_order(compare):
    twice = result(program("f", [1.0] * 4), program("f", [2.0] * 4))
    assert [row[:4] for row in rows(compare(twice, twice))] == [
        ["f", "1000.00", "1000.00", "1.000 ~"],
        ["f (2)", "2000.00", "2000.00", "1.000 ~"],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"title": "t", "machine": {}, "programs": []}',
        '{"programs": [{}]}',
        "[" * 99_999,
        '{"title": "twice", ' + json.dumps(result(program("f", UNIT)))[1:],
        json.dumps(result(program("f", []))),
    ],
)
def test_another_file_is_named(compare, text):
    with pytest.raises(diff.ResultError, match=r"b\.json"):
        compare(result(program("f", UNIT)), text)


def test_wrong_usage(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["benchmark", "diff", "a.json", "b.json", "--config.x=1"])
    with pytest.raises(command.UsageError, match="not an option"):
        benchmark.main()
