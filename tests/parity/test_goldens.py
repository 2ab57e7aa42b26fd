"""The folder of golden files: no file and no array of it is passed over in silence, whatever the files are called."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest

from tests.parity import goldens, reporting

each = pytest.mark.parametrize("case", goldens.all_cases(), ids=lambda case: case.name)


def test_the_folder_has_golden_files():
    assert goldens.folder().is_dir(), f"no folder {goldens.folder()}"
    assert goldens.cases(""), f"no golden files in {goldens.folder()}"


def test_every_array_file_has_a_manifest():
    lonely = [path for path in goldens.folder().rglob("*.npz") if not path.with_suffix(".json").exists()]
    assert not lonely, f"no manifest beside {lonely}"


def whole(request) -> reporting.Readings:
    if not reporting.is_whole(request.config):
        pytest.skip("only a part of tests/parity was asked for")
    return request.config.stash[reporting.READINGS]


@each
def test_some_test_takes_it(case, request):
    """A kind that no test knows is an error, not a skip."""
    assert case.path.with_suffix(".npz").exists(), f"no arrays beside {case.path}"
    whole(request)
    tests = [item for item in request.session.items if item.path != request.path]
    takers = {item.path.name for item in tests for taken in reporting.cases_of(item) if taken == case}
    kind = case.manifest["case"]
    assert takers, f"{case.path}: no test knows the kind {kind!r} ({case.detector or case.manifest.get('what', '')})"


@each
def test_every_key_is_read(case, request):
    readings = whole(request)
    if reporting.is_worker(request.config):
        pytest.skip("other workers' tests read it too; the exit code of the run tells")
    if readings.failed(case):
        pytest.skip("its tests failed")
    lacking = readings.lacking(case)
    assert not lacking, f"{case.name}: read by no test, nor excused in {reporting.__name__}.NOT_COMPARED: {lacking}"


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with one case under a name that says nothing, in a folder of its own, and a JSON file that is none."""
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "some thing.json"
    path.write_text(json.dumps({"case": "E06_nms", "keys": {}}))
    levels = {f"in/p{level}": np.full(1, level) for level in (10, 9, 3)}
    np.savez(path.with_suffix(".npz"), **levels, **{"out/y": np.zeros(2), "argmax": np.zeros(1)})
    (tmp_path / "names.json").write_text(json.dumps({"model": {"weight": [1]}}))
    monkeypatch.setenv("DYHEAD_GOLDENS", str(tmp_path))
    return path


def test_cases_are_found_by_kind(made):
    (case,) = goldens.cases("E06")
    assert case.name == "inner/some thing"
    assert goldens.all_cases() == [case]
    assert not goldens.cases("A")
    shutil.move(made.with_suffix(".npz"), made.with_suffix(".gone"))
    assert not goldens.cases("E06")
    assert goldens.all_cases() == [case]  # its arrays are gone: `test_some_test_takes_it` says so


def test_reading_is_written_down(made):
    (case,) = goldens.cases("E06")
    goldens.read.clear()
    assert [int(x[0]) for x in case.numbered("in/p*")] == [3, 9, 10]
    assert case.shape("out/y") == (2,)
    assert "out/y" in case
    assert goldens.read == {case.name: {"in/p3", "in/p9", "in/p10"}}
    with pytest.raises(AssertionError, match="has no in/q"):
        case.numbered("in/q*")
    goldens.read.clear()


def test_unread_keys_are_told(made, pytestconfig, monkeypatch):
    (case,) = goldens.cases("E06")
    readings = reporting.Readings(pytestconfig)
    readings.keys[case.name] = {"in/p3", "in/p9", "in/p10"}
    assert readings.lacking(case) == ["out/y", "argmax"]
    monkeypatch.setitem(reporting.NOT_COMPARED, r"E06.* argmax", "why")
    assert readings.lacking(case) == ["out/y"]


def test_the_small_set_is_no_complete_one(monkeypatch):
    monkeypatch.setenv("DYHEAD_GOLDENS", str(goldens.SMALL))
    assert reporting.is_small()
    with pytest.raises(pytest.UsageError, match="the complete set of golden files is missing: DYHEAD_GOLDENS names"):
        reporting.pytest_configure(SimpleNamespace(getoption=lambda name: name == "complete"))


def test_tests_without_a_case_are_told(pytestconfig):
    readings = reporting.Readings(pytestconfig)
    about = {"cases": [], "read": {}, "notes": []}
    for name, reason in (("none", "Skipped: got empty parameter set for (case)"), ("other", "Skipped: no TPU")):
        node = f"tests/parity/test_z.py::test_{name}[NOTSET]"
        readings.pytest_runtest_logreport(
            SimpleNamespace(goldens=about, skipped=True, nodeid=node, longrepr=reason, outcome="skipped")
        )
    assert readings.without == {"test_z.py::test_none"}


def test_stated_numbers():
    assert goldens.stated("RoIAlign 7x7, finest_scale 56, thr .5", r"thr ([\d.]+)") == 0.5
    with pytest.raises(AssertionError, match="states no"):
        goldens.stated("nothing", r"thr ([\d.]+)")
