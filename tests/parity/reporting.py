"""Which golden files a run compared: a pytest plugin that says so at the end, and fails for what was passed over.

Each test report carries the cases that the test was run on and the keys that it read of them (under pytest-xdist from
the workers to the process that reports). A run of the whole of tests/parity must read every key of every file, but for
NOT_COMPARED. In one process `test_goldens` fails where it does not; with workers the exit code says it. Tests for which
the folder has no case are named too, and `--complete` refuses the small committed set.
"""

import os
import re
import textwrap
from pathlib import Path

import pytest

from tests.parity import goldens

PARITY = Path(__file__).resolve().parent
LAST = "test_every_key_is_read"  # runs after all others
NO_ARRAYS = "test_layout_names.py"  # reads manifests only: it compares nothing of what a file holds
EMPTY = "got empty parameter set"  # pytest's reason

NOT_COMPARED = {
    r"H01.* argmax": "the point that won is not an output of ours; grad/feature goes to the cells around it",
}
"""Pattern of "case key" to the reason why no comparison reads it."""


class Readings:
    """What the reports of the tests told."""

    def __init__(self, config: pytest.Config):
        self.config = config
        self.keys: dict[str, set[str]] = {}  # of each file, read until now
        self.outcomes: dict[str, set[str]] = {}  # of each file's tests
        self.notes: list[str] = []
        self.without: set[str] = set()  # tests for which the folder has no case

    def failed(self, case: goldens.Case) -> bool:
        return "failed" in self.outcomes.get(case.name, ())

    def lacking(self, case: goldens.Case) -> list[str]:
        """Keys that nothing read and no reason excuses."""
        unread = [key for key in case.keys if key not in self.keys.get(case.name, ())]
        kind = case.manifest["case"]
        return [key for key in unread if not any(re.fullmatch(rule, f"{kind} {key}") for rule in NOT_COMPARED)]

    def pytest_runtest_logreport(self, report):
        found = getattr(report, "goldens", None)
        if found is None:
            return
        for name, keys in found["read"].items():
            self.keys.setdefault(name, set()).update(keys)
        for name in found["cases"]:
            self.outcomes.setdefault(name, set()).add(report.outcome)
        self.notes += found["notes"]
        if report.skipped and EMPTY in str(report.longrepr):
            self.without.add(report.nodeid.partition("[")[0].removeprefix("tests/parity/"))

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session):
        """For runs with workers, in which no single test sees the others' readings."""
        if is_worker(self.config) or self.config.option.collectonly or not is_whole(self.config):
            return
        if session.exitstatus == pytest.ExitCode.OK and any(self.lacking(case) for case in self.with_arrays()):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def with_arrays(self) -> list[goldens.Case]:
        return goldens.cases("")

    def pytest_terminal_summary(self, terminalreporter):
        if not self.outcomes or is_worker(self.config):
            return
        found, say = goldens.all_cases(), terminalreporter.write_line
        compared = [case for case in found if self.outcomes.get(case.name) == {"passed"}]
        terminalreporter.section("golden files")
        say(f"{len(compared)} of {len(found)} compared and equal, in {goldens.folder()}:")
        say(textwrap.fill(" ".join(case.name for case in compared), 120))
        for what, some in {
            "FAILED": [case.name for case in found if self.failed(case)],
            "NOT COMPARED": [case.name for case in found if case not in compared and not self.failed(case)],
        }.items():
            if some:
                say(textwrap.fill(f"{what}: {' '.join(some)}", 120))
        for case in compared if is_whole(self.config) else ():
            if lacking := self.lacking(case):
                say(f"NOT READ of {case.name}: {' '.join(lacking)}")
        if self.without:
            say(textwrap.fill(f"NO CASE HERE for {len(self.without)} tests: {' '.join(sorted(self.without))}", 120))
            if is_small():
                say("`make goldens` runs them, on the complete set")
        for note in self.notes:
            say(note)


READINGS = pytest.StashKey[Readings]()


def cases_of(item: pytest.Item) -> list[goldens.Case]:
    """The golden cases that a test of tests/parity is run on."""
    if not item.path.is_relative_to(PARITY) or item.path.name == NO_ARRAYS or not isinstance(item, pytest.Function):
        return []
    values = item.callspec.params.values() if hasattr(item, "callspec") else ()
    return [value for value in values if isinstance(value, goldens.Case)]


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def is_small() -> bool:
    return goldens.folder().resolve() == goldens.SMALL.resolve()


def is_whole(config: pytest.Config) -> bool:
    """Whether the command line asked for all of tests/parity."""
    if config.option.keyword or config.option.markexpr or config.option.deselect or config.getoption("lf", False):
        return False
    start = config.invocation_params.dir
    return any(PARITY.is_relative_to((start / arg).resolve()) for arg in config.args if "::" not in arg)


def pytest_addoption(parser):
    parser.addoption("--complete", action="store_true", help="refuse the small committed set of golden files")


def pytest_configure(config):
    if config.getoption("complete") and is_small():
        why = "DYHEAD_GOLDENS names" if "DYHEAD_GOLDENS" in os.environ else "there is no ../shared/goldens, only"
        raise pytest.UsageError(f"the complete set of golden files is missing: {why} {goldens.SMALL}, the small set")
    config.stash[READINGS] = Readings(config)
    config.pluginmanager.register(config.stash[READINGS])


def pytest_collection_modifyitems(items):
    goldens.read.clear()  # what was read to decide on parameters was not compared
    items.sort(key=lambda item: item.name.startswith(LAST))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    if item.path.is_relative_to(PARITY):
        about = [] if item.path.name == "test_goldens.py" else [case.name for case in cases_of(item)]
        read = {name: sorted(keys) for name, keys in goldens.read.items()}
        report.goldens = {"cases": about, "read": read, "notes": list(goldens.notes)}
    goldens.read.clear()
    goldens.notes.clear()
    return report
