"""`python -m dyhead_jax.data check`: every fault of a folder at once, what is not taken as it stands, and pictures."""

import json
import shutil
import sys
from pathlib import Path

import pytest

from dyhead_jax import command
from dyhead_jax.data import __main__ as data
from dyhead_jax.inference import pictures
from tests.data import photo_sets
from tests.data.test_frames import photo
from tests.data.test_photos import MANY, WRITERS


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["data", "check", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(data._main)
    out = capsys.readouterr()
    return int(ended.value.code or 0), out.out, out.err


@pytest.mark.parametrize("kind", WRITERS)
def test_a_good_folder_of_any_kind(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    WRITERS[kind](tmp_path)
    code, out, err = run(monkeypatch, capsys, tmp_path)
    assert (code, err) == (0, "")
    assert out.startswith("found ")
    assert "train: 3 images, 3 boxes to train on, 0 crowd regions" in out
    assert "val: 1 images, 2 boxes to train on" in out
    assert "boxes by class: " in out
    assert out.splitlines()[-1] == "0 errors, 0 doubtful images"


def test_all_faults_of_a_coco_folder_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo_sets.coco(tmp_path, MANY)
    path = tmp_path / "annotations" / "instances_train.json"
    content = json.loads(path.read_text())
    boxes, records = content["annotations"], content["images"]
    boxes[0]["bbox"], boxes[1]["bbox"], boxes[2]["bbox"] = [1, 2, 0, 3], [20, 1, 90, 9], [1, 1, 0.5, 9]
    boxes[3]["bbox"], boxes[4]["category_id"] = None, 77
    records[5].update(width=48, height=20)
    path.write_text(json.dumps(content))
    (tmp_path / "train" / records[6]["file_name"]).unlink()
    broken = tmp_path / "train" / records[7]["file_name"]
    broken.write_bytes(broken.read_bytes()[:-40])
    out_folder = tmp_path / "out"
    code, out, err = run(
        monkeypatch, capsys, tmp_path, "--out", out_folder, "--count", 2, "--config.data.source.val_fraction=0"
    )
    assert code == 1
    errors = err.splitlines()
    assert len(errors) == 5
    for text in (
        "annotations[3].bbox",
        "annotations[4].category_id 77",
        "005.png is 24x20",
        "006.png, named in",
        "007.png",
    ):
        assert sum(text in line for line in errors) == 1, text
    for text in ("000.png: 1 box left out: no area", "001.png: 1 box clipped", "002.png: 1 box tiny"):
        assert text in out
    assert out.splitlines()[-1] == "5 errors, 3 doubtful images"
    assert sorted(file.name for file in out_folder.iterdir()) == ["train_000000.png", "train_000001.png"]
    assert pictures.read(out_folder / "train_000001.png").shape == (20, 24, 3)
    code, _, err = run(monkeypatch, capsys, tmp_path, "--no-decode", "--config.data.source.val_fraction=0")
    assert len(err.splitlines()) == 4


def test_turned_and_scaled_pictures_are_doubtful(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path / "a.jpg", 6)
    photo(tmp_path / "b.jpg", size=(48, 32))
    images = [{"id": i, "file_name": name, "height": 96, "width": 64} for i, name in enumerate(("a.jpg", "b.jpg"))]
    boxes = [{"id": i + 1, "image_id": i, "category_id": 1, "bbox": [16, 24, 24, 40]} for i in range(2)]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "a"}]}
    (tmp_path / "labels.json").write_text(json.dumps(content))
    code, out, _ = run(
        monkeypatch, capsys, tmp_path, "--config.data.source.val_fraction=0", "--out", tmp_path / "drawn"
    )
    assert code == 0
    assert "a.jpg: turned upright" in out
    assert "b.jpg: boxes scaled by 0.5" in out
    assert pictures.read(tmp_path / "drawn" / "train_000000.png").shape == (96, 64, 3)


def test_a_name_with_a_line_break_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo_sets.voc(tmp_path)
    (tmp_path / "JPEGImages" / "empty.png").write_bytes(b"")
    for path in (tmp_path / "JPEGImages" / "empty.png", tmp_path / "Annotations" / "empty.xml"):
        path.rename(path.with_name(f"two\nlines{path.suffix}"))
    shutil.rmtree(tmp_path / "ImageSets")
    code, _, err = run(monkeypatch, capsys, tmp_path)
    assert (code, err.count("\n")) == (1, 1)
    assert err.startswith(f"error: {tmp_path}/JPEGImages/two lines.png: empty")


def test_faults_of_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = run(monkeypatch, capsys, tmp_path / "nowhere")
    assert (code, err) == (1, f"error: the data folder {tmp_path / 'nowhere'} does not exist\n")
    (tmp_path / "file").write_text("")
    code, _, err = run(monkeypatch, capsys, tmp_path, "--out", tmp_path / "file")
    assert code == 2
