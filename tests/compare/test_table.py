"""The numbers of a table and of a picture, against plain loops over made-up runs."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from dyhead_jax.compare import CompareError, picture, results, table
from dyhead_jax.compare.process import Ended
from dyhead_jax.compare.report import Report
from dyhead_jax.compare.runs import Record, Run
from dyhead_jax.measure import cost
from dyhead_jax.measure.cost import Cost
from tests.compare.made_up import BATCH, STEPS, candidate, config, rows, write

NAMES = ("plain", "ours", "broken")
APS = {"plain": (0.30, 0.34, 0.29), "ours": (0.33, 0.36, None), "broken": (None, None, None)}
SPEEDS = {1: None, 2: 8.0, 4: 4.0, 6: 16.0}  # the first compiled
MACHINE = {"date": "2026-01-01", "device": "1 x cpu"}
COST = Cost({"backbone": 1_500_000, "head": 500_000}, {"backbone": 2_000_000_000, "head": 10_000_000})


@pytest.fixture
def made(tmp_path):
    """Three candidates with three seeds; of `ours` one has not run, and those of `broken` have failed."""
    candidates = [candidate(name, baseline="plain") for name in NAMES]
    candidates[1].config.model.dyhead.num_blocks = 2
    runs = [Run(one, seed, tmp_path / one.folder / f"seed{seed}") for seed in range(3) for one in candidates]
    for run in runs:
        ap = APS[run.candidate.name][run.seed]
        if ap is not None:
            scores = {2: ap / 3, 4: ap / 2, STEPS: ap}
            write(run, rows(scores, {step: v and v * (1 + run.seed) for step, v in SPEEDS.items()}))
            run.add(Ended(0, 100.0 + run.seed, 2**30), Record(), 0.5, MACHINE)
        elif run.candidate.name == "broken":
            run.folder.parent.mkdir(exist_ok=True)
            run.add(Ended(1, 3.0, 2**20), Record(), 1.5, MACHINE)
    return candidates, runs


def finished(runs):
    """The results by the candidate's name and by seed."""
    found = {name: {} for name in NAMES}
    for run in runs:
        result = results.read(run)
        if result is not None:
            found[run.candidate.name][run.seed] = result
    return found


def test_a_row_is_what_plain_sums_give(made):
    candidates, runs = made
    found = finished(runs)
    plain, ours, broken = table.rows(
        candidates, found, {"plain": [], "ours": [], "broken": [0, 1, 2]}, dict.fromkeys(NAMES, COST)
    )
    aps = APS["plain"]
    mean = (aps[0] + aps[1] + aps[2]) / 3
    np.testing.assert_allclose(plain.ap, mean)
    np.testing.assert_allclose(plain.ap50, mean / 2)
    np.testing.assert_allclose(plain.sd, math.sqrt(sum((ap - mean) ** 2 for ap in aps) / 2))
    assert (plain.low, plain.high, plain.gain) == (0.29, 0.34, None)
    np.testing.assert_allclose(ours.gain, (0.025, 0.02, 0.03))
    assert ours.finished == (0, 1)
    np.testing.assert_allclose(ours.seconds, 100.5)
    assert ours.host_bytes == 2**30
    assert ours.device_bytes is None
    assert (ours.parameters, ours.multiply_adds) == (2_000_000, 2_010_000_000)
    np.testing.assert_allclose(plain.step_seconds, BATCH / 16)  # of the middle seed, twice as fast as the first
    assert broken.finished == ()
    assert broken.gain is None
    assert math.isnan(broken.ap)
    text = table.markdown([plain, ours, broken], 3).splitlines()
    assert "0.310 | 0.026 | 0.290 to 0.340 |  | 0.155 | 0.077, 0.062, 0.052 | 2.00 | 2.01 | 250 | 1.00 |" in text[2]
    assert "`ours` (2 of 3 seeds) | 0.345 |" in text[3]
    assert "| +0.025 (+0.020 to +0.030) |" in text[3]
    assert "`broken` (0 of 3 seeds, seed 0 failed, seed 1 failed, seed 2 failed) |  |  |  |" in text[4]
    assert {line.count("|") for line in text} == {13}


def test_a_size_that_no_object_has_is_not_a_bad_score(made):
    candidates, runs = made
    found = finished(runs)
    for result in found["plain"].values():
        result.scores["APl"] = -1.0  # as pycocotools says it
    row = table.rows(candidates, found, {name: [] for name in NAMES}, dict.fromkeys(NAMES, COST))[0]
    np.testing.assert_allclose(row.by_size[:2], (0.31 / 4, 0.31 / 5))
    assert "| 0.077, 0.062, none |" in table.markdown([row], 3)


def test_a_gain_is_over_the_first_of_its_group(made, monkeypatch, tmp_path):
    monkeypatch.setattr(cost, "measure", lambda model, size: COST)
    candidates, runs = made
    candidates = [*candidates, candidate("fcos"), candidate("fcos_ours", baseline="fcos")]
    for one in candidates[3:]:
        one.config.model.neck.features = 128  # in both, so no difference within their group
    for one, aps in zip(candidates[3:], ((0.2, 0.3, 0.1), (0.1, 0.5, 0.3)), strict=True):
        for seed, ap in enumerate(aps):
            run = Run(one, seed, tmp_path / one.folder / f"seed{seed}")
            write(run, rows({STEPS: ap}, SPEEDS))
            run.add(Ended(0, 9.0, 2**30), Record(), 0.5, MACHINE)
            runs.append(run)
    text = Report(candidates, runs, tmp_path, []).write()
    assert "| gain over the first of its group, seed by seed |" in text
    assert "| `ours` (2 of 3 seeds) | 0.345 | 0.021 | 0.330 to 0.360 | +0.025 (+0.020 to +0.030) |" in text
    assert "| `fcos` | 0.200 | 0.100 | 0.100 to 0.300 |  |" in text
    assert "| `fcos_ours` | 0.300 | 0.200 | 0.100 to 0.500 | +0.100 (-0.100 to +0.200) |" in text
    assert "- `ours`: model.dyhead.num_blocks 2 (first: 6)" in text
    assert "The same config as `plain`: `broken`\n\nThe same config as `fcos`: `fcos_ours`" in text
    with Image.open(tmp_path / "bars.png") as image:
        pixels = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(0x00, 0x72, 0xB2), (0xBB, 0xBB, 0xBB)} <= pixels


def test_bars_are_as_long_as_means_and_dots_lie_at_seeds(made, tmp_path):
    candidates, runs = made
    found = finished(runs)
    for ap, result in zip((0.8, 0.2), found["ours"].values(), strict=True):
        result.scores["AP"] = ap
    shown = table.rows(candidates, found, dict.fromkeys(NAMES, ()), dict.fromkeys(NAMES, COST))
    picture.bars(shown, found, tmp_path / "bars.png")
    with Image.open(tmp_path / "bars.png") as image:
        pixels = np.asarray(image.convert("RGB"))
    grey, blue = ((pixels == colour).all(axis=-1) for colour in ((0xBB, 0xBB, 0xBB), (0x00, 0x72, 0xB2)))
    zero = np.flatnonzero(blue.any(axis=0))[0]

    def middle(bar):
        """The row of pixels halfway up a bar, from AP 0 on."""
        of_bar = np.flatnonzero(bar[:, zero + 2])
        return bar[(of_bar[0] + of_bar[-1]) // 2, zero:]

    length = np.flatnonzero(middle(blue))[-1]
    plain = np.flatnonzero(middle(grey))[-1]
    dot = np.flatnonzero(~middle(blue)[:length]).mean()  # the other dot is beyond the bar
    np.testing.assert_allclose([plain / length, dot / length], [sum(APS["plain"]) / 3 / 0.5, 0.2 / 0.5], atol=0.02)


def test_memory_of_devices_goes_before_that_of_the_process(made):
    run = made[1][0]
    lines = rows({STEPS: 0.3}, SPEEDS)
    for line, held in zip(lines, (1.0, 3.0 * 2**30, 2.0 * 2**30, 2.0 * 2**30), strict=False):
        line["train/device_bytes"] = held
    write(run, lines)
    result = results.read(run)
    assert result is not None
    assert result.device_bytes == 3 * 2**30
    row = table.rows(made[0][:1], {"plain": {0: result}}, {"plain": []}, {"plain": COST})
    text = table.markdown(row, 1)
    assert "device memory, GiB" in text
    assert "| 3.00 |" in text


def test_a_curve_takes_the_seconds_of_each_interval():
    lines = rows({2: 0.1, 5: 0.2, 6: 0.3}, SPEEDS)
    usual = BATCH / 8.0  # the median of 4, 8 and 16 images a second
    seconds = [usual, BATCH / 8, BATCH / 4, BATCH / 4, BATCH / 16, BATCH / 16]  # of each step
    wanted = [[step, sum(seconds[:step]), ap] for step, ap in ((2, 0.1), (5, 0.2), (6, 0.3))]
    np.testing.assert_allclose(results.curve(lines, BATCH), wanted)
    assert results.step_seconds(lines, BATCH) == usual
    assert math.isnan(results.step_seconds(rows({6: 0.3}, {6: None}), BATCH))


def test_a_band_covers_all_seeds():
    draw = np.random.default_rng(0)
    curves = [np.stack([np.arange(1, 5), draw.uniform(1, 9, 4).cumsum(), draw.uniform(size=4)], 1) for _ in range(3)]
    shorter = curves[2][1:]
    found = picture.band([*curves[:2], shorter])
    assert found[:, 0].tolist() == [2, 3, 4]
    for i in (1, 2, 3):
        points = [curve[i] for curve in curves]
        aps = [point[2] for point in points]
        wanted = [sum(point[1] for point in points) / 3, sum(aps) / 3, min(aps), max(aps)]
        np.testing.assert_allclose(found[i - 1, 1:], wanted)


def test_a_report_has_all_files_and_says_what_is_unlike(made, tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda model, size: COST)
    candidates, runs = made
    candidates[1].config.run.log_every = 7
    out = tmp_path / "copy.md"
    text = Report(candidates, runs, tmp_path, ["plain.py", "a b"], out).write()
    assert out.read_text() == (tmp_path / "table.md").read_text() == text
    assert "Command: `python -m dyhead_jax.compare plain.py 'a b'`" in text
    assert "date 2026-01-01, device 1 x cpu" in text
    assert f"{STEPS} steps of {BATCH} images, 3 seeds each." in text
    assert "load average before the runs 0.5 to 1.5" in text
    assert "one image of 800x1344" in text
    assert "- `ours`: run.log_every 7 (first: 50)" in text
    assert "- `ours`: model.dyhead.num_blocks 2 (first: 6)" in text
    assert "The same config as `plain`: `broken`" in text
    assert f"`broken, seed 1`, see {tmp_path / 'broken' / 'seed1.log'}" in text
    content = json.loads((tmp_path / "table.json").read_text())
    assert [row["name"] for row in content["rows"]] == list(NAMES)
    assert content["rows"][0]["seeds"]["1"]["scores"]["AP"] == 0.34
    assert content["rows"][2]["ap"] is None
    with Image.open(tmp_path / "curves.png") as image:
        assert image.size[0] > 1000
        pixels = {tuple(pixel) for pixel in np.asarray(image.convert("RGB")).reshape(-1, 3)[::1]}
    assert {(0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)} <= pixels


def test_a_model_that_cannot_be_built_is_named_before_anything_runs(tmp_path):
    made = config()
    made.model.dyhead.task = "tests.compare.test_table:broken"
    with pytest.raises(CompareError, match=r"^ours: its model cannot be built: ZeroDivisionError: .*zero"):
        Report([candidate("ours", made)], [], tmp_path, [])
    assert list(tmp_path.iterdir()) == []


def broken(**_):
    return 1 // 0


def test_nothing_finished_is_a_table_and_a_picture_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cost, "measure", lambda model, size: COST)
    one = candidate("plain", config())
    runs = [Run(one, 0, tmp_path / "plain" / "seed0")]
    text = Report([one], runs, tmp_path, ["plain.py"]).write()
    assert "`plain` (0 of 1 seeds)" in text
    assert "One seed: how far rows differ by it was not measured." in text
    for name in ("bars.png", "curves.png"):
        assert (tmp_path / name).is_file()
