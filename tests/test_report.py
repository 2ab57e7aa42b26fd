"""metrics.jsonl survives kills and resumes; curves draw whatever is there; progress counts training alone."""

import json
import math
import sys
import types

import pytest
from PIL import Image

from dyhead_jax import report


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_and_visible_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with report.Metrics(path) as metrics:
        metrics.write(10, {"train/loss": 2.5, "train/lr": 0.1})
        assert lines(path) == [{"step": 10, "train/loss": 2.5, "train/lr": 0.1}]
        metrics.write(20, {"train/loss": math.nan})
        assert metrics.has(20, "train/loss")
        assert not metrics.has(20, "eval/AP")
    assert lines(path)[1] == {"step": 20, "train/loss": None}
    assert report.read_metrics(path) == lines(path)


@pytest.mark.parametrize("tail", ["", '{"step": 40, "tra', '{"step": 40', "\0\0\0"])
def test_resume_drops_later_steps_and_a_half_written_line(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    with report.Metrics(path) as metrics:
        for step in (10, 20, 30):
            metrics.write(step, {"train/loss": 1.0 / step})
        metrics.write(20, {"eval/AP": 0.5})
    whole = lines(path)
    path.write_text(path.read_text() + tail)
    with report.Metrics(path, resume_step=20) as metrics:
        assert [row["step"] for row in metrics.rows] == [10, 20, 20]
        metrics.write(30, {"train/loss": 1.0 / 30})
    assert lines(path) == [whole[0], whole[1], whole[3], whole[2]]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}')
    with report.Metrics(path, resume_step=2) as metrics:
        metrics.write(3, {"a": 3.0})
    assert [row["a"] for row in lines(path)] == [1.0, 2.0, 3.0]


@pytest.mark.parametrize("broken", ["not json", "[1]", '{"a": 1}', '{"step": "1"}', '{"step": 1.5}'])
def test_a_broken_line_in_the_middle_is_an_error_and_stays(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n' + broken + '\n{"step": 2}\n'
    path.write_text(text)
    with pytest.raises(report.ReportError, match=r"metrics\.jsonl, line 2"):
        report.Metrics(path, resume_step=2)
    assert path.read_text() == text


def test_a_failed_atomic_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(report.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        report.write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_tensorboard_gets_every_value_and_its_absence_names_the_extra(tmp_path, monkeypatch):
    written = []

    class Writer:
        def __init__(self, folder, purge_step):
            written.append((folder, purge_step))

        def add_scalar(self, key, value, step):
            written.append((key, value, step))

        def flush(self): ...

        def close(self): ...

    monkeypatch.setitem(sys.modules, "tensorboardX", types.SimpleNamespace(SummaryWriter=Writer))
    with report.Metrics(tmp_path / "metrics.jsonl", resume_step=4, tensorboard=True) as metrics:
        metrics.write(5, {"train/loss": 1.5})
    assert written == [(str(tmp_path / "tensorboard"), 5), ("train/loss", 1.5, 5)]
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(report.ReportError, match=r"dyhead-jax\[tensorboard\]"):
        report.Metrics(tmp_path / "metrics.jsonl", tensorboard=True)


def test_curves_draw_gaps_single_points_and_nothing(tmp_path):
    rows = [{"step": s, "train/loss": 3.0 / s, "train/loss_box": None, "train/lr": 0.1} for s in (1, 2, 3)]
    rows.append({"step": 3, "eval/AP": 0.4, "eval/AP50": 0.6})
    sizes = []
    for number, some in enumerate((rows, rows[:1], [])):
        path = tmp_path / f"{number}.png"
        report.curves(some, path)
        with Image.open(path) as picture:
            sizes.append((picture.size, len(picture.convert("RGB").getcolors(1 << 20))))
    assert {size for size, _ in sizes} == {(1500, 400)}
    assert sizes[0][1] > sizes[2][1]  # lines bring colours
    assert len(list(tmp_path.iterdir())) == 3


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_progress_without_a_terminal_is_plain_lines_and_counts_training_alone(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(report.time, "perf_counter", clock)
    with report.Progress(8, images_per_step=4, every=2, start=0, terminal=False) as progress:
        assert all(math.isnan(value) for value in progress.speed().values())
        for step in range(1, 9):
            clock.now += 30.0 if step == 1 else 0.5  # the first step compiles
            progress.update(step, loss=1.25)
            if step == 4:
                assert progress.speed()["images_per_second"] == pytest.approx(8.0)
                with progress.paused():
                    clock.now += 1000.0  # an evaluation
        assert progress.speed() == {"images_per_second": pytest.approx(8.0), "input_wait": 0.0}
    out = capsys.readouterr()
    assert out.err == ""
    assert out.out.splitlines() == [
        "step 2/8  loss 1.25  8.0 images/s  input wait 0.0%  0:03 left",
        "step 4/8  loss 1.25  8.0 images/s  input wait 0.0%  0:02 left",
        "step 6/8  loss 1.25  8.0 images/s  input wait 0.0%  0:01 left",
        "step 8/8  loss 1.25  8.0 images/s  input wait 0.0%  0:00 left",
    ]


def test_input_wait_is_the_time_in_which_devices_had_nothing_to_do(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(report.time, "perf_counter", clock)

    def one(step, seconds, busy):
        with progress.waiting(lambda: busy):
            clock.now += seconds
        clock.now += 1.0 - seconds
        progress.update(step)

    with report.Progress(7, images_per_step=4, every=7, terminal=False) as progress:
        with progress.waiting(lambda: False):
            clock.now += 50.0  # loading starts
        clock.now += 30.0
        progress.update(1)
        one(2, 0.1, False)
        one(3, 0.9, True)  # loading took long, but the step before took longer
        assert progress.speed()["input_wait"] == pytest.approx(0.05)
        with progress.paused():
            clock.now += 1000.0
        one(4, 0.4, False)
        assert progress.speed() == {"images_per_second": pytest.approx(4.0), "input_wait": pytest.approx(0.4)}
        for step in (5, 6, 7):
            one(step, 0.0, False)
        assert progress.speed()["input_wait"] == 0.0
    assert "input wait 8.3%" in capsys.readouterr().out  # 0.5 of 6 seconds


def test_progress_on_a_terminal_is_a_bar_on_standard_error(capsys):
    with report.Progress(3, images_per_step=2, start=1, terminal=True) as progress:
        progress.update(2, loss=0.5)
        progress.update(3, loss=0.25)
    out = capsys.readouterr()
    assert out.out == ""
    assert "3/3" in out.err
    assert "loss 0.25" in out.err
