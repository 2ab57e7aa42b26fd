"""metrics.jsonl survives kills and resumes; curves draw whatever is there; progress counts training alone."""

import json
import math

import pytest
from PIL import Image

from dyhead_jax.training import metrics as metrics_file


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_lines_are_appended_and_visible_at_once(tmp_path):
    path = tmp_path / "metrics.jsonl"
    with metrics_file.Metrics(path) as metrics:
        metrics.write(10, {"train/loss": 2.5, "train/lr": 0.1})
        assert lines(path) == [{"step": 10, "train/loss": 2.5, "train/lr": 0.1}]
        metrics.write(20, {"train/loss": math.nan})
        assert metrics.has(20, "train/loss")
        assert not metrics.has(20, "eval/AP")
    assert lines(path)[1] == {"step": 20, "train/loss": None}
    assert metrics_file.read_metrics(path) == lines(path)


def test_memory_is_that_of_the_fullest_device_where_all_say_it():
    class Device:
        def __init__(self, stats):
            self.memory_stats = lambda: stats

    full, empty, silent = Device({"peak_bytes_in_use": 2**40}), Device({"peak_bytes_in_use": 5}), Device(None)
    assert metrics_file.device_memory([empty, full]) == {"device_bytes": 2.0**40}
    assert metrics_file.device_memory([full, silent]) == {}


@pytest.mark.parametrize("tail", ["", '{"step": 40, "tra', '{"step": 40', "\0\0\0"])
def test_resume_drops_later_steps_and_a_half_written_line(tmp_path, tail):
    path = tmp_path / "metrics.jsonl"
    with metrics_file.Metrics(path) as metrics:
        for step in (10, 20, 30):
            metrics.write(step, {"train/loss": 1.0 / step})
        metrics.write(20, {"eval/AP": 0.5})
    whole = lines(path)
    path.write_text(path.read_text() + tail)
    with metrics_file.Metrics(path, resume_step=20) as metrics:
        assert [row["step"] for row in metrics.rows] == [10, 20, 20]
        metrics.write(30, {"train/loss": 1.0 / 30})
    assert lines(path) == [whole[0], whole[1], whole[3], whole[2]]
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_last_line_without_its_newline_is_kept(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "a": 1.0}\n{"step": 2, "a": 2.0}')
    with metrics_file.Metrics(path, resume_step=2) as metrics:
        metrics.write(3, {"a": 3.0})
    assert [row["a"] for row in lines(path)] == [1.0, 2.0, 3.0]


def test_a_resumed_run_says_that_its_metrics_are_gone(tmp_path, capsys):
    path = tmp_path / "metrics.jsonl"
    metrics_file.Metrics(path).close()
    path.unlink()
    metrics_file.Metrics(path, resume_step=4).close()
    assert capsys.readouterr().out == f"note: {path} is gone, with the metrics of the steps up to 4\n"
    metrics_file.Metrics(path, resume_step=6).close()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    "broken",
    ["not json", "[1]", '{"a": 1}', '{"step": "1"}', '{"step": 1.5}', '{"step": 1, "a": "b"}', "[" * 100_000],
    ids=lambda text: text[:20],
)
def test_a_broken_line_in_the_middle_is_an_error_and_stays(tmp_path, broken):
    path = tmp_path / "metrics.jsonl"
    text = '{"step": 1}\n' + broken + '\n{"step": 2}\n'
    path.write_text(text)
    with pytest.raises(metrics_file.ReportError, match=r"metrics\.jsonl, line 2"):
        metrics_file.Metrics(path, resume_step=2)
    assert path.read_text() == text


def test_a_line_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"step": 2, "caf\xe9": 1}\n{"step": 3}\n')
    with pytest.raises(metrics_file.ReportError, match=r"metrics\.jsonl, line 2"):
        metrics_file.read_metrics(path)


def test_curves_draw_gaps_single_points_and_nothing(tmp_path):
    rows = [{"step": s, "train/loss": 3.0 / s, "train/loss_box": None, "train/lr": 0.1} for s in (1, 2, 3)]
    rows.append({"step": 3, "eval/AP": 0.4, "eval/AP50": 0.6})
    sizes = []
    for number, some in enumerate((rows, [])):
        path = tmp_path / f"{number}.png"
        metrics_file.curves(some, path)
        with Image.open(path) as picture:
            sizes.append((picture.size, len(picture.convert("RGB").getcolors(1 << 20))))
    assert {size for size, _ in sizes} == {(1500, 400)}
    assert sizes[0][1] > sizes[1][1]  # lines bring colours
    assert len(list(tmp_path.iterdir())) == 2
