"""python -m dyhead_jax.data show: the rows of training, drawn, and every box shown or counted."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command
from dyhead_jax.config import Config
from dyhead_jax.data import __main__ as data_command
from dyhead_jax.data import pictures, pipeline
from dyhead_jax.data.show import show
from dyhead_jax.data.source import make_source
from tests.data import photo_sets
from tests.data.folders import data_config, write_split

BOXES = [[[2.0, 2.0, 9.0, 9.0]], [[1.0, 1.0, 20.0, 10.0], [20.0, 5.0, 0.5, 9.0]], [[0.0, 0.0, 30.0, 20.0]]]
CONFIG = """
from dyhead_jax.config import Config, DataConfig, PhotosConfig

def get_config():
    data = DataConfig(source=PhotosConfig(), canvases=((32, 48), (48, 32)), short_side=(32,), long_side=48,
                      batch_size=2, eval_batch_size=2, mosaic=0.5, random_crop=0.5)
    return Config(data=data)
"""


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    return path


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["data", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(data_command._main)
    return ended.value.code  # type: ignore[return-value]


def test_the_pictures_are_the_rows_that_training_sees(tmp_path: Path) -> None:
    write_split(tmp_path / "set", "train", [(20, 30)] * 3, BOXES)
    data = data_config(tmp_path / "set", batch_size=2, scale_jitter=(0.7, 1.5), mixup=0.5, max_boxes=2)
    split = make_source(data, tmp_path).split("train")
    shown = show(split, Config(data=data, seed=7), tmp_path / "out", name="train", count=3, step=4)
    assert [path.name for path in shown.files] == [
        "train_000004_000.png", "train_000004_001.png", "train_000005_000.png", "contact_sheet.png",
    ]  # fmt: skip
    batches = pipeline.train_batches(split, data, 7, start_step=4)
    boxes = left_out = 0
    for path, (loaded, row) in zip(shown.files, [(first := next(batches), 0), (first, 1), (next(batches), 0)],
                                   strict=False):  # fmt: skip
        truth = loaded.batch.ground_truth
        mask = np.asarray(truth.mask)[row]
        boxes, left_out = boxes + int(mask.sum()), left_out + int(loaded.left_out[row])
        drawn = pictures.draw(loaded.batch.images[row], truth.boxes[row][mask], truth.labels[row][mask], None, "ab")
        with Image.open(path) as picture:
            pixels = np.asarray(picture)
        height, width = drawn.shape[:2]
        np.testing.assert_array_equal(pixels[-6 - height : -6, -6 - width : -6], drawn)
    batches.close()
    assert (shown.boxes, shown.left_out) == (boxes, left_out)
    assert boxes > 3


def test_the_command(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_sets.yolo(tmp_path / "set")
    before = sorted(root.rglob("*"))
    options = [f"--config={config_file}", f"--config.data.root={root}", "--out", tmp_path / "out"]
    assert run(monkeypatch, "show", *options, "--count", 5, "--step", 2) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "train: found YOLO labels (data.yaml): 3 train images, 3 classes"
    assert "train: 1 of 3 images without boxes left out (data.skip_empty)" in lines
    assert any("1 of 3 class names have letters that no installed font has" in line for line in lines) or shows_cjk()
    assert lines[-2] == f"wrote 5 pictures and contact_sheet.png into {tmp_path / 'out'}"
    assert lines[-1].endswith("left out by the transforms")
    assert len(list((tmp_path / "out").iterdir())) == 6
    assert run(monkeypatch, "show", *options, "--split", "val") == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        f"wrote 1 pictures and contact_sheet.png into {tmp_path / 'out'}",
        "2 boxes as the network sees them, 0 left out by the transforms",
    ]
    assert sorted(root.rglob("*")) == before  # nothing is written beside the photographs


def shows_cjk() -> bool:
    return pictures.fonts.shows("螺丝")


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--count", "0"], 2, "--count 0 must be at least 1"),
        (["--step", "-1"], 2, "--step -1 at least 0"),
        (["--step", "9", "--split", "val"], 1, "the val part has no batch 9"),
        (["--config.data.mosaic=1.5"], 1, "config.data.mosaic is 1.5; it must be from 0 to 1"),
        (["--config.data.mosiac=1"], 2, "did you mean 'mosaic'"),
        (["--config.data.root=nowhere"], 1, "the data folder nowhere does not exist"),
    ],
)
def test_wrong_options(
    options: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    config_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    root = photo_sets.coco(tmp_path / "set")
    given = [f"--config={config_file}", f"--config.data.root={root}", "--out", tmp_path / "out"]
    assert run(monkeypatch, "show", *given, *options) == code
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert len(error.splitlines()) == 1


def test_an_unreadable_file_is_named(
    tmp_path: Path, config_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root = photo_sets.coco(tmp_path / "set")
    path = root / "annotations" / "instances_train.json"
    path.write_text(json.dumps({"images": [], "annotations": 3, "categories": []}))
    given = [f"--config={config_file}", f"--config.data.root={root}", "--out", tmp_path / "out"]
    assert run(monkeypatch, "show", *given) == 1
    assert f"{path} has no list under the key 'annotations'" in capsys.readouterr().err
