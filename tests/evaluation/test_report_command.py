"""`python -m dyhead_jax.evaluate --report`: on a workdir, on files, and with wrong options."""

import json
import sys
from types import SimpleNamespace

import pytest
from PIL import Image

from dyhead_jax import command, evaluate
from dyhead_jax.config import Config
from dyhead_jax.evaluation.average_precision import KEYS, coco_metrics
from tests.evaluation.test_evaluate import DATA, Squares, WhiteSquares, run_command
from tests.evaluation.test_report import SEEN, WORST, Page


class Displaced(Squares):
    """Thirteen pictures, two batches for each canvas; the annotation of the fifth lies beside its square."""

    notes = ("2 boxes left out",)

    def __init__(self):
        super().__init__(13)

    def coco(self):
        content = super().coco()
        content["annotations"][4]["bbox"][0] += 15
        return content


@pytest.fixture
def model(monkeypatch):
    """The split of a workdir whose model finds white squares."""
    from dyhead_jax.evaluation import trained_model

    loaded = SimpleNamespace(
        config=Config(data=DATA),
        model=WhiteSquares(),
        variables={},
        class_names=("square",),
        category_ids=(42,),
        step=12,
    )
    monkeypatch.setattr(trained_model, "load_for_inference", lambda folder, step, trust: loaded)
    split = Displaced()
    monkeypatch.setattr(evaluate, "make_source", lambda data, folder: SimpleNamespace(split=lambda name: split))
    return split


def test_the_report_of_a_workdir(model, monkeypatch, capsys, tmp_path):
    folder = tmp_path / "new" / "report"
    code, out, err = run_command(monkeypatch, capsys, "--workdir", tmp_path, "--report", folder)
    assert (code, err) == (0, "")
    assert f"report in {folder / 'index.html'}" in out
    numbers = json.loads((folder / "report.json").read_text())
    page = Page((folder / "index.html").read_text())
    assert out.splitlines()[-1].startswith(f"AP {numbers['metrics']['AP']:.4f} AP50")
    assert list(numbers["model"].values()) == [str(tmp_path), "12", "ATSS", "ResNet, depth 50", "6 blocks"]
    assert numbers["data"]["split"] == "val"
    assert numbers["data"]["annotations"] == "annotations/instances_val.json"
    assert numbers["left_out"] == ["2 boxes left out"]
    assert [(c["height"], c["width"], c["batches"]) for c in numbers["speed"]["canvases"]] == [
        (80, 128, 1),
        (128, 80, 1),
    ]
    assert numbers["speed"]["ms_per_image"] > 0
    assert "JAX on" in numbers["hardware"]
    assert [p["file_name"] for p in numbers["pictures"]] == ["4.png"]
    assert len(page.pictures) == 2
    results = tmp_path / "results.json"
    assert run_command(monkeypatch, capsys, "--workdir", tmp_path, "--out", results)[0] == 0
    metrics = coco_metrics(model.coco(), json.loads(results.read_text()))
    assert numbers["metrics"] == {key: metrics[key] for key in KEYS}


def test_the_report_on_files_with_and_without_pictures(monkeypatch, capsys, tmp_path):
    ground_truth, results = tmp_path / "truth.json", tmp_path / "found.json"
    ground_truth.write_text(json.dumps(WORST))
    results.write_text(json.dumps(SEEN))
    (tmp_path / "pictures").mkdir()
    Image.new("RGB", (100, 100), (90, 90, 90)).save(tmp_path / "pictures" / "2.png")
    files = ["--annotations", ground_truth, "--detections", results]
    assert run_command(monkeypatch, capsys, *files, "--report", tmp_path / "a")[0] == 0
    plain = Page((tmp_path / "a" / "index.html").read_text())
    assert plain.pictures == []
    assert "No pictures were given" in " ".join(plain.text)
    assert "not measured, because the detections come from a file" in " ".join(plain.text)
    options = ["--report", tmp_path / "b", "--images", tmp_path / "pictures"]
    assert run_command(monkeypatch, capsys, *files, *options)[0] == 0
    page = Page((tmp_path / "b" / "index.html").read_text())
    assert len(page.pictures) == 2
    assert "5.png: No such file or directory" in " ".join(page.text)
    first, second = (json.loads((tmp_path / name / "report.json").read_text()) for name in "ab")
    assert first["metrics"] == second["metrics"]
    assert first["speed"] is None


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--workdir", ".", "--report", "file"], 1, "--report file: is a file; give a folder"),
        (["--workdir", ".", "--report", "r", "--images", "."], 2, "--images is for --report with --annotations"),
        (["--annotations", "a", "--detections", "b", "--images", "."], 2, "--images is for --report"),
        (
            ["--annotations", "a", "--detections", "b", "--report", "r", "--images", "x"],
            1,
            "--images x: no such folder",
        ),
    ],
)
def test_wrong_options_are_one_line_and_write_nothing(arguments, code, message, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    ended, out, err = run_command(monkeypatch, capsys, *arguments)
    assert (ended, out, err.count("\n")) == (code, "", 1)
    assert err.startswith(f"error: {message}")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_help_names_the_report(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate", "--help"])
    with pytest.raises(SystemExit):
        command.run(evaluate._main)
    assert "--report DIR writes DIR/index.html" in capsys.readouterr().out
