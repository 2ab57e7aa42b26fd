"""Speed and input wait count training alone; a bar on a terminal, lines elsewhere."""

import math

import pytest

from dyhead_jax.training import progress as progress_bar


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_progress_without_a_terminal_is_plain_lines_and_counts_training_alone(capsys, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(progress_bar.time, "perf_counter", clock)
    with progress_bar.Progress(8, images_per_step=4, log_every=2, start=0, terminal=False) as progress:
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
    monkeypatch.setattr(progress_bar.time, "perf_counter", clock)

    def one(step, seconds, busy):
        with progress.waiting(lambda: busy):
            clock.now += seconds
        clock.now += 1.0 - seconds
        progress.update(step)

    with progress_bar.Progress(7, images_per_step=4, log_every=7, terminal=False) as progress:
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
    with progress_bar.Progress(3, images_per_step=2, start=1, terminal=True) as progress:
        progress.update(2, loss=0.5)
        progress.update(3, loss=0.25)
    out = capsys.readouterr()
    assert out.out == ""
    assert "3/3" in out.err
    assert "loss 0.25" in out.err
