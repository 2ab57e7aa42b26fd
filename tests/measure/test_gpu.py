"""`benchmarks/gpu.sh`: parts under time limits, lines that outlive them, the page. `.ci/run` rehearses the whole."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")


@pytest.fixture(autouse=True)
def _path(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)


def line(name, what, seconds, **fields):
    numbers = {
        "reference": "torchvision in float32",
        "median_s": seconds,
        "spread": 0.01,
        "floor_s": 1e-4,
        "error": 1e-6,
        "equal": True,
        "ours": True,
    }
    where = {"part": "operator", "size": "6x7", "batch": 1, "precision": "float32", "name": name, "what": what}
    return where | numbers | fields


def test_the_page_shows_what_ran_and_what_did_not():
    from gpu import report

    rows = [
        {"part": "machine", "machine": {"device": "1 x card"}},
        {"part": "machine", "precision": "float32", "flops_per_s": 5e13, "bytes_per_s": 4e12},
        line("gather", "forward", 2e-3, torchvision_over_ours=1.5),
        line("windows", "forward", 1e-3, torchvision_over_ours=3.0),
        line("dense", "forward", 1e-4, equal=False),
        line("torchvision", "forward", 3e-3, ours=False),
        {"part": "operator", "size": "6x7", "batch": 8, "precision": "bfloat16", "name": "torchvision", "failed": "no"},
    ]
    statuses = {"operator": {"code": 124, "how": "stopped after 5 s", "seconds": 5.0}}
    page = report.page("bash benchmarks/gpu.sh", statuses, rows, rehearsal=False)
    assert "| float32 | 50 | 4000 |" in page
    assert "| 6x7 | 1 | float32 | windows | 1.000 | 3.00 | 10.0 | - | - | - | 1e-06 / - | yes |" in page
    assert "`windows` forward (the slowest takes 2.00 times as long)" in page  # not `dense`, which is not equal
    assert "| dense | 0.100 | - | 1.0 | - | - | - | 1e-06 / - | NO |" in page
    assert "- operator, 6x7, batch 8, bfloat16, torchvision: no" in page
    assert "| operator | stopped after 5 s | 5 |" in page
    assert "All compared with: torchvision in float32." in page
    assert report.faults(rows) == ["operator, 6x7, batch 1, float32, dense, forward: not equal to the reference"]
    assert "Not run on a GPU" not in page
    assert "Not run on a GPU" in report.page("", {}, [], rehearsal=True)


def test_an_error_costs_its_case_and_not_the_lines_before(tmp_path):
    from gpu.rounds import Rows

    rows = Rows(tmp_path / "rows.jsonl", "block")
    rows.add(name="first", median_s=1.0)
    with rows.guarded(size="8x8"):
        raise RuntimeError("no\nmemory")
    assert [json.loads(text) for text in rows.path.read_text().splitlines()] == [
        {"part": "block", "name": "first", "median_s": 1.0},
        {"part": "block", "size": "8x8", "failed": "RuntimeError: no memory"},
    ]


def test_a_difference_is_that_of_the_worst_array_and_nan_is_one():
    from gpu.rounds import difference

    one = np.ones(4)
    assert difference([one, 1.5 * one], [one, one]) == 0.5
    assert not difference([one, np.nan * one], [one, one]) <= 1.0


@pytest.mark.long
def test_a_part_ends_at_its_limit(tmp_path):
    from gpu import __main__ as runner

    slow = [sys.executable, "-c", "import time; print('begun', flush=True); time.sleep(60)"]
    with (tmp_path / "log").open("wb") as log:
        assert runner.call(slow, {}, log, 2.0) == (124, "stopped after 2 s")
        assert runner.call([sys.executable, "-c", "raise SystemExit(3)"], {}, log, 20.0)[0] == 3
    assert (tmp_path / "log").read_text() == "begun\n"
