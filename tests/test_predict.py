"""Prediction on files: boxes in the image's own pixels, nothing written over, broken images reported, the rest done."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dyhead_jax import command, predict
from dyhead_jax.config import DataConfig
from dyhead_jax.data import pictures
from dyhead_jax.evaluation import trained_model
from dyhead_jax.types import Detections
from tests.data.folders import SHARED

DATA = DataConfig(canvases=((48, 96), (96, 48)), short_side=(48,), long_side=96)
traced = []


class BrightBox:
    """A model of no parameters: the box around what is bright, a second box of the whole image scored 0.2, an empty
    slot."""

    def apply(self, variables, images, sizes, method):
        assert method == "detect"
        traced.append(images.shape)
        white = images[..., 0] > 127

        def span(x):
            return jnp.argmax(x, 1), x.shape[1] - jnp.argmax(x[:, ::-1], 1)

        (y1, y2), (x1, x2) = span(white.any(2)), span(white.any(1))
        box = jnp.stack([x1, y1, x2, y2], -1).astype(jnp.float32)
        zero = jnp.zeros(len(images))
        whole = jnp.stack([zero, zero, sizes[:, 1], sizes[:, 0]], -1)
        scores = jnp.tile(jnp.array([[0.9, 0.2, 0.0]]), (len(images), 1))
        labels = jnp.tile(jnp.array([[1, 0, -1]]), (len(images), 1))
        return Detections(boxes=jnp.stack([box, whole, 0 * box], 1), scores=scores, labels=labels)


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    loaded = SimpleNamespace(
        config=SimpleNamespace(data=DATA),
        model=BrightBox(),
        variables={},
        class_names=("dull", "bright"),
        category_ids=(3, 90),
        step=1,
    )
    monkeypatch.setattr(trained_model, "load_for_inference", lambda workdir, step: loaded)


def run(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["predict", "--workdir", "w", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(predict._main)
    out = capsys.readouterr()
    return ended.value.code, out.out, out.err


def picture(path, size=(40, 60), box=(10, 5, 30, 25)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = np.zeros((*size, 3), np.uint8)
    image[box[1] : box[3], box[0] : box[2]] = 255
    pictures.save(image, path)
    return path


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_boxes_ids_names_and_files(tmp_path, monkeypatch, capsys):
    traced.clear()
    folder = tmp_path / "in"
    wide, tall = picture(folder / "wide.png"), picture(folder / "tall.PNG", (100, 50), (5, 40, 45, 90))
    (folder / "notes.txt").write_text("no image")
    single = picture(tmp_path / "single.png", (200, 300), (150, 50, 250, 150))
    before = contents(tmp_path)
    out = tmp_path / "new" / "out"
    code, text, err = run(monkeypatch, capsys, "--out", out, folder, single, wide)
    assert (code, err) == (0, "")
    assert text.startswith("3 of 3 images, 3 boxes scored 0.3 or more")
    assert {p: b for p, b in contents(tmp_path).items() if p in before} == before

    results = json.loads((out / "detections.json").read_text())
    assert [(r["image_id"], r["category_id"]) for r in results] == [(1, 90), (2, 90), (3, 90)]
    assert [r["file_name"] for r in results] == [str(tall), str(wide), str(single)]
    expected = [[5, 40, 40, 50], [10, 5, 20, 20], [150, 50, 100, 100]]
    assert np.abs(np.array([r["bbox"] for r in results]) - expected).max() < 4  # half a pixel of the 48-pixel input
    assert len(traced) == 2  # once for each canvas

    listing = json.loads((out / "images.json").read_text())
    sizes = [(i["id"], i["height"], i["width"]) for i in listing["images"]]
    assert sizes == [(1, 100, 50), (2, 40, 60), (3, 200, 300)]
    for record in listing["images"]:
        with Image.open(out / record["picture"]) as drawn:
            assert drawn.size == (record["width"], record["height"])
            assert len({tuple(p) for p in np.asarray(drawn).reshape(-1, 3).tolist()}) > 2
    loaded = COCO(str(out / "images.json")).loadRes(str(out / "detections.json"))
    assert len(loaded.anns) == 3
    assert {category["name"] for category in loaded.loadCats([3, 90])} == {"dull", "bright"}


@pytest.mark.parametrize(("score", "count"), [(0, 2), (0.2, 2), (0.21, 1), (1, 0)])
def test_score(score, count, tmp_path, monkeypatch, capsys):
    path = picture(tmp_path / "a.png")
    assert run(monkeypatch, capsys, "--out", tmp_path / "out", "--score", score, path)[0] == 0
    assert len(json.loads((tmp_path / "out" / "detections.json").read_text())) == count


def test_the_same_name_twice_and_an_output_folder_full_of_inputs(tmp_path, monkeypatch, capsys):
    picture(tmp_path / "a" / "x.png", box=(0, 0, 20, 20))
    picture(tmp_path / "b" / "x.jpg", box=(40, 20, 60, 40))
    picture(tmp_path / "b" / "X.png")
    picture(tmp_path / "b" / "x_boxes.jpg")
    before = contents(tmp_path)
    for _ in range(2):  # the second run takes the first one's pictures as inputs too
        code, _, err = run(monkeypatch, capsys, "--out", tmp_path / "b", tmp_path / "a", tmp_path / "b")
        assert (code, err) == (0, "")
        after = contents(tmp_path)
        assert {p: after[p] for p in before} == before
        names = [record["picture"] for record in json.loads((tmp_path / "b" / "images.json").read_text())["images"]]
        assert len({name.casefold() for name in names}) == len(names)
        before |= {p: b for p, b in after.items() if p.suffix != ".json"}


def test_broken_images_are_one_line_each_and_the_others_are_done(tmp_path, monkeypatch, capsys):
    good = picture(tmp_path / "good.png")
    empty, text, absent = tmp_path / "empty.jpg", tmp_path / "text.jpg", tmp_path / "absent.jpg"
    empty.write_bytes(b"")
    text.write_text("hello")
    code, out, err = run(monkeypatch, capsys, "--out", tmp_path / "out", empty, text, absent, good)
    assert code == 1
    assert out.startswith("1 of 4 images")
    lines = err.splitlines()
    assert len(lines) == 3
    for line, path in zip(lines, (empty, text, absent), strict=True):
        assert line.startswith(f"error: {path}")
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [r["image_id"] for r in results] == [4]


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "out", "folder"], 1, "folder: no image in this folder"),
        (["--out", "file", "a.png"], 1, "--out file: is a file"),
        (["--out", "out", "--score", "1.5", "a.png"], 2, "--score 1.5"),
        (["--out", ".", "a.png", "detections.json"], 1, "detections.json: is an input"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(arguments, code, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    (tmp_path / "detections.json").write_text("[]")
    picture(tmp_path / "a.png")
    before = contents(tmp_path)
    ended, out, err = run(monkeypatch, capsys, *arguments)
    assert (ended, out) == (code, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert contents(tmp_path) == before


@pytest.mark.skipif(not (SHARED / "nasty").is_dir(), reason=f"{SHARED}/nasty is absent")
def test_every_odd_image_is_drawn_or_named(tmp_path, monkeypatch, capsys):
    code, _, err = run(monkeypatch, capsys, "--out", tmp_path / "out", SHARED / "nasty" / "images")
    assert code == 1
    broken = [
        Path(case["file"]).name
        for case in json.loads((SHARED / "nasty" / "manifest.json").read_text())["images"]
        if case["suggested"].startswith("clear error")
    ]
    named = [name for name in broken if any(name in line for line in err.splitlines())]
    assert named == broken
    done = [Path(i["file_name"]).name for i in json.loads((tmp_path / "out" / "images.json").read_text())["images"]]
    assert not set(done) & set(broken)
    inputs = {p.name for p in (SHARED / "nasty" / "images").iterdir() if p.suffix.lower() in predict.SUFFIXES}
    reported = {name for name in inputs if any(f"/{name}" in line for line in err.splitlines())}
    assert set(done) | reported == inputs
    assert {"wide_4000x8.jpg", "one_pixel.png", "näme with spaces (1).jpg", "animated.gif", "rgba.png"} <= set(done)
