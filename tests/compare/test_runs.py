"""Which runs are trained, in which order, and what a run that failed or was stopped leaves to do."""

import io
import json
import shutil
import signal
import sys

import pytest

from dyhead_jax import config as configs
from dyhead_jax.compare import progress, runs
from dyhead_jax.compare.process import Ended
from dyhead_jax.training.workdir import WorkdirError
from tests.compare.made_up import STEPS, candidate, config, rows, write

MACHINE = {"device": "1 x cpu"}


class Trainer:
    """Trains nothing: writes what a training would, and ends with the code that `codes` has for the run's name."""

    def __init__(self, **codes):
        self.codes, self.trained, self.reports = codes, [], 0

    def train(self, run, number):
        self.trained.append((number, run.name))
        code = self.codes.get(f"{run.candidate.name}{run.seed}", 0)
        done = {0: STEPS, runs.STOPPED: 3}.get(code, 0)
        write(run, rows({STEPS: 0.5} if code == 0 else {}, {step: 8.0 for step in range(1, done + 1)}))
        if done:
            (run.folder / "checkpoints" / str(done)).mkdir(parents=True)
        return Ended(code, 10.0, 1000 * (run.seed + 1))

    def report(self):
        self.reports += 1

    def go(self, folder, seeds=2, names=("a", "b")):
        planned = runs.plan([candidate(name) for name in names], range(seeds), folder)
        return runs.go_through(planned, self.train, self.report, MACHINE), planned


def test_the_first_seed_of_all_comes_first_and_nothing_twice(tmp_path):
    trainer = Trainer()
    code, planned = trainer.go(tmp_path)
    assert code == 0
    assert trainer.trained == [(1, "a, seed 0"), (2, "b, seed 0"), (3, "a, seed 1"), (4, "b, seed 1")]
    assert trainer.reports == 4
    assert all(run.is_finished and not run.has_failed for run in planned)
    record = json.loads((tmp_path / "b" / "seed1.json").read_text())
    assert (record["code"], record["seconds"], record["bytes"], record["machine"]) == (0, 10.0, 2000, MACHINE)
    again = Trainer()
    assert again.go(tmp_path)[0] == 0
    assert (again.trained, again.reports) == ([], 1)
    more = Trainer()
    more.go(tmp_path, seeds=3, names=("a", "b", "c"))
    assert more.trained == [(3, "c, seed 0"), (6, "c, seed 1"), (7, "a, seed 2"), (8, "b, seed 2"), (9, "c, seed 2")]


def test_a_failed_run_does_not_hold_up_the_others_and_is_tried_again(tmp_path):
    trainer = Trainer(a0=1)
    code, planned = trainer.go(tmp_path)
    assert code == 0
    assert len(trainer.trained) == 4
    assert [run.name for run in planned if run.has_failed] == ["a, seed 0"]
    again = Trainer()
    _, planned = again.go(tmp_path)
    assert again.trained == [(1, "a, seed 0")]
    assert not any(run.has_failed for run in planned)
    assert planned[0].record.seconds == 10.0  # the failed try saved nothing: it is no part of the run


@pytest.mark.parametrize("code", [runs.STOPPED, -signal.SIGTERM])
def test_a_stopped_run_stops_all_and_goes_on(tmp_path, code):
    trainer = Trainer(b0=code)
    ended, planned = trainer.go(tmp_path)
    assert ended == runs.STOPPED == 75
    assert [name for _, name in trainer.trained] == ["a, seed 0", "b, seed 0"]
    assert not any(run.has_failed for run in planned)
    assert progress.last_step(planned[1].folder / "metrics.jsonl") == (3 if code == runs.STOPPED else 0)
    again = Trainer()
    ended, planned = again.go(tmp_path)
    assert ended == 0
    assert [name for _, name in again.trained] == ["b, seed 0", "a, seed 1", "b, seed 1"]
    record = planned[1].record
    assert (record.code, record.seconds) == (0, 20.0 if code == runs.STOPPED else 10.0)
    assert len(record.loads) == (2 if code == runs.STOPPED else 1)


@pytest.mark.parametrize("checkpoints", ["kept", "removed"])
def test_a_folder_of_another_comparison_is_refused(tmp_path, checkpoints):
    Trainer().go(tmp_path)
    if checkpoints == "removed":  # what is small can be kept without them
        for folder in tmp_path.glob("*/*/checkpoints"):
            shutil.rmtree(folder)
        assert Trainer().go(tmp_path)[0] == 0
    for field, value, message in (
        (
            "learning_rate",
            0.5,
            r"belongs to a run with another config: config\.optim\.learning_rate was 0\.01, is 0\.5",
        ),
        ("steps", STEPS + 1, rf"has a run of {STEPS} steps, not {STEPS + 1}; choose another --workdir"),
    ):
        other = config()
        setattr(other.run if field == "steps" else other.optim, field, value)
        with pytest.raises(WorkdirError, match=message):
            runs.plan([candidate("a", other)], range(1), tmp_path)


def test_a_config_that_was_edited_on_the_way_is_noticed(tmp_path):
    trainer = Trainer()
    train = trainer.train

    def edited(run, number):
        ended = train(run, number)
        other = config()
        other.optim.learning_rate = 0.5
        (run.folder / "config.json").write_text(configs.to_json(other))
        return ended

    trainer.train = edited
    with pytest.raises(WorkdirError, match=r"config\.optim\.learning_rate was 0\.5, is 0\.01"):
        trainer.go(tmp_path)


def test_a_broken_record_is_named(tmp_path):
    Trainer().go(tmp_path)
    for text in ("{", '{"code": "0"}', '{"seconds": null}', '{"loads": 3}', '{"machine": {"a": 1}}', "[" * 100_000):
        (tmp_path / "a" / "seed0.json").write_text(text)
        with pytest.raises(WorkdirError, match=r"seed0\.json is not a record of a run"):
            Trainer().go(tmp_path)


def test_the_last_whole_line_of_a_file(tmp_path):
    path = tmp_path / "log"
    assert progress.last_line(path) == ""
    path.write_text("one\ntwo\n\nhal")
    assert progress.last_line(path) == "two"
    path.write_text("x" * 10_000 + "\nlast\n")
    assert progress.last_line(path) == "last"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_counts_the_steps_of_all_runs(tmp_path, monkeypatch, capsys):
    trainer = Trainer(a1=runs.STOPPED, b1=1)
    trainer.go(tmp_path, seeds=1, names=("a",))
    planned = runs.plan([candidate("a"), candidate("b")], range(2), tmp_path)
    monkeypatch.setattr(sys, "stderr", Terminal())
    capsys.readouterr()
    with progress.Progress(planned) as shown:
        bar = shown._bar
        assert (shown.left, shown.count, bar.n, bar.total) == (3, 4, STEPS, 4 * STEPS)
        for number, run, after in ((2, planned[1], 2), (3, planned[2], 3), (4, planned[3], 4)):
            poll = shown.begins(run, number)
            write(run, rows({}, {1: None, 2: 8.0}))
            shown._looked = 0.0
            poll()
            assert bar.n == (after - 1) * STEPS + 2
            run.log.write_text("a line\nerror: no such file\n")
            shown.ends(run, trainer.train(run, number))
            assert bar.n == after * STEPS
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    assert lines[0] == "1 of 4 runs are finished"
    assert lines[1] == f"2 of 4: b, seed 0, log in {tmp_path / 'b' / 'seed0.log'}"
    assert lines[2].startswith("  AP 0.5000 AP50 0.2500 ")
    assert lines[4] == f"  stopped at step 3 of {STEPS}, after 10 s"
    assert lines[6] == f"  failed with exit code 1 after 10 s: error: no such file ({tmp_path / 'b' / 'seed1.log'})"
