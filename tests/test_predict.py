"""Prediction on files: boxes in the image's own pixels, nothing written over, broken images reported, the rest done."""

import csv
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from dyhead_jax import command, predict
from dyhead_jax.config import DataConfig, EvaluationConfig
from dyhead_jax.data import images, pictures
from dyhead_jax.inference import model, video
from dyhead_jax.types import Detections
from tests.inference.tiny_run import save_with_orientation
from tests.nasty import cases

DATA = DataConfig(canvases=((48, 96), (96, 48)), short_side=(48,), long_side=96)
traced = []


class BrightBox:
    """A model of no parameters: the box around what is bright, a second box of the whole image scored 0.2, an empty
    slot."""

    def apply(self, variables, images, sizes, method):
        """A picture of 77 is too much for it."""
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
        scores = jnp.where((images[:, :8, :8] == 77).all((1, 2, 3))[:, None], jnp.nan, scores)
        labels = jnp.tile(jnp.array([[1, 0, -1]]), (len(images), 1))
        return Detections(boxes=jnp.stack([box, whole, 0 * box], 1), scores=scores, labels=labels)


@pytest.fixture(autouse=True)
def _model(monkeypatch):
    loaded = SimpleNamespace(
        config=SimpleNamespace(data=DATA, evaluation=EvaluationConfig()),
        model=BrightBox(),
        variables={},
        class_names=("dull", "bright"),
        category_ids=(3, 90),
        step=1,
    )
    monkeypatch.setattr(model, "load_for_inference", lambda workdir, step, trust: loaded)


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
    listings = []
    for again in range(3):
        arguments = ("--out", tmp_path / "b", tmp_path / "a", tmp_path / "b")
        code, out, err = run(monkeypatch, capsys, *(arguments if again < 2 else arguments[:-1]))
        assert (code, err) == (0, "")
        after = contents(tmp_path)
        assert {p: after[p] for p in before} == before
        listings.append(json.loads((tmp_path / "b" / "images.json").read_text()))
        names = [record["picture"] for record in listings[-1]["images"]]
        assert len({name.casefold() for name in names}) == len(names) == (4, 4, 1)[again]
        assert ("left out: 4 drawn by an earlier prediction\n" in out) == (again == 1)
    assert listings[0] == listings[1]
    # one of the four pictures was drawn a third time; all are still known as drawn
    assert set(listings[0]["pictures"]) <= set(listings[2]["pictures"])
    code, out, _ = run(monkeypatch, capsys, "--out", tmp_path / "c", tmp_path / "b")
    assert code == 0
    assert out == (
        f"3 of 3 images, 3 boxes scored 0.3 or more, in {tmp_path / 'c'}\n"
        "left out: 4 drawn by an earlier prediction\nleft out: 3 of other kinds\n"
    )


def test_folders_in_folders_and_patterns(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    paths = [picture(folder / name) for name in ("b.png", "deep/er/a.jpg", "deep/c.png", "z [1].png")]
    picture(folder / ".hidden" / "h.png")
    picture(folder / ".hidden.png")
    (folder / "deep" / "notes.txt").write_text("no image")
    (folder / "deep" / "clip.mp4").write_bytes(b"")
    cases = {
        (folder,): ("b.png", "z [1].png", "deep/c.png", "deep/er/a.jpg"),
        (folder / "*.png",): ("b.png", "z [1].png"),
        (f"{folder}/**/*.png", paths[1]): ("b.png", "deep/c.png", "z [1].png", "deep/er/a.jpg"),
        (paths[3], folder / "deep"): ("z [1].png", "deep/c.png", "deep/er/a.jpg"),
    }
    for arguments, expected in cases.items():
        code, out, err = run(monkeypatch, capsys, "--out", tmp_path / "out", *arguments)
        assert (code, err) == (0, "")
        results = json.loads((tmp_path / "out" / "detections.json").read_text())
        assert [r["file_name"] for r in results] == [str(folder / name) for name in expected]
        if arguments == (folder,):
            assert "left out: 1 hidden, or no file\n" in out
            assert "left out: 1 videos in folders (name a video to have it predicted)\n" in out
            assert "left out: 1 of other kinds\n" in out


def test_the_table_says_the_same(tmp_path, monkeypatch, capsys):
    picture(tmp_path / "a.png")
    picture(tmp_path / "b.png", (100, 50), (5, 40, 45, 90))
    assert (
        run(monkeypatch, capsys, "--out", tmp_path / "out", "--score", 0, tmp_path / "a.png", tmp_path / "b.png")[0]
        == 0
    )
    results = json.loads((tmp_path / "out" / "detections.json").read_text())
    with (tmp_path / "out" / "detections.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results) == 4
    for row, result in zip(rows, results, strict=True):
        x, y, width, height = result["bbox"]
        assert [float(row[key]) for key in ("x1", "y1", "x2", "y2")] == pytest.approx(
            [x, y, x + width, y + height], abs=0.0051
        )
        assert (row["file_name"], int(row["image_id"])) == (result["file_name"], result["image_id"])
        assert row["name"] == {3: "dull", 90: "bright"}[int(row["category_id"])]
        assert float(row["score"]) == pytest.approx(result["score"], abs=1e-4)


def test_batches_give_the_same_with_one_program_a_canvas(tmp_path, monkeypatch, capsys):
    for number in range(5):
        picture(tmp_path / "in" / f"{number}.png", box=(number, 5, 30, 25))
        picture(tmp_path / "in" / f"t{number}.png", (60, 40), (5, number, 30, 25))
    every = []
    for batch in (1, 3):
        traced.clear()
        assert run(monkeypatch, capsys, "--out", tmp_path / "out", "--batch", batch, tmp_path / "in")[0] == 0
        assert sorted(traced) == [(batch, 48, 96, 3), (batch, 96, 48, 3)]
        every.append((tmp_path / "out" / "detections.json").read_text())
    assert every[0] == every[1]


def test_a_photograph_on_its_side_is_turned(tmp_path, monkeypatch, capsys):
    image = np.zeros((40, 60, 3), np.uint8)
    image[5:25, 10:30] = 255
    save_with_orientation(np.ascontiguousarray(np.rot90(image)), tmp_path / "side.png", 6)
    assert run(monkeypatch, capsys, "--out", tmp_path / "out", tmp_path / "side.png")[0] == 0
    (result,) = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert np.abs(np.array(result["bbox"]) - [10, 5, 20, 20]).max() < 1
    with Image.open(tmp_path / "out" / "side_boxes.jpg") as drawn:
        assert drawn.size == (60, 40)


def write_clip(path, frames=7, size=(48, 64)):
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10.0, (size[1], size[0]))
    assert writer.isOpened()
    for number in range(frames):
        frame = np.zeros((*size, 3), np.uint8)
        frame[16:32, 4 * number : 4 * number + 16] = 255
        writer.write(frame)
    writer.release()
    return path


def test_a_video_frame_by_frame(tmp_path, monkeypatch, capsys):
    clip, still = write_clip(tmp_path / "clip.mp4"), picture(tmp_path / "a.png")
    out = tmp_path / "out"
    code, text, err = run(monkeypatch, capsys, "--out", out, "--batch", 2, clip, still)
    assert (code, err) == (0, "")
    assert text.startswith("2 of 2 files, 8 boxes")
    results = json.loads((out / "detections.json").read_text())
    assert [(r["image_id"], r.get("frame")) for r in results] == [*((n + 1, n) for n in range(7)), (8, None)]
    for number, result in enumerate(results[:-1]):
        assert np.abs(np.array(result["bbox"]) - [4 * number, 16, 16, 16]).max() < 3  # the codec blurs
    records = json.loads((out / "images.json").read_text())["images"]
    assert [r["picture"] for r in records] == ["clip_boxes.mp4"] * 7 + ["a_boxes.jpg"]
    with video.Video(out / "clip_boxes.mp4") as written:
        frames = list(written)
        assert (len(frames), written.rate) == (7, 10.0)
    assert frames[0].shape == (48, 64, 3)
    with video.Video(clip) as given:
        assert any(np.abs(a.astype(int) - b).max() > 60 for a, b in zip(frames, given, strict=True))  # boxes


def test_a_video_that_cannot_be_read_or_written_is_said(tmp_path, monkeypatch, capsys):
    broken, absent, clip = tmp_path / "broken.mp4", tmp_path / "absent.mp4", write_clip(tmp_path / "clip.mp4")
    broken.write_bytes(b"no video")

    class NoWriter:
        fourcc = staticmethod(cv2.VideoWriter.fourcc)

        def __init__(self, *_):
            pass

        def isOpened(self):
            return False

        def release(self):
            pass

    monkeypatch.setattr(video.cv2, "VideoWriter", NoWriter)
    code, text, err = run(monkeypatch, capsys, "--out", tmp_path / "out", broken, absent, clip)
    assert code == 1
    assert text.startswith("1 of 3 files, 7 boxes")
    expected = (f"{broken}: OpenCV cannot", f"{absent}: no such", f"{tmp_path / 'out' / 'clip_boxes.mp4'}: OpenCV here")
    for line, start in zip(err.splitlines(), expected, strict=True):
        assert line.startswith(f"error: {start}")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"detections.json", "detections.csv", "images.json"}
    records = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert [record["picture"] for record in records] == [None] * 7


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
        (["--out", "out", "no*.png"], 1, "no*.png: matches no picture"),
        (["--out", "out", "--score", "1.5", "a.png"], 2, "--score 1.5"),
        (["--out", "out", "--batch", "0", "a.png"], 2, "--batch 0"),
        (["--out", "out", "--tiles", "0", "a.png"], 2, "--tiles 0"),
        (["--out", "out", "--tiles", "9", "--overlap", "1", "a.png"], 2, "--overlap 1.0"),
        (["--out", ".", "a.png", "detections.json"], 1, "detections.json: is an input"),
        (["--out", ".", "a.png"], 1, "detections.json: exists and is not of a prediction"),
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


def test_every_odd_image_is_drawn_or_named(tmp_path, monkeypatch, capsys):
    folder = cases.FOLDER / "images"
    code, _, err = run(monkeypatch, capsys, "--out", tmp_path / "out", folder)
    assert code == 1
    broken = {name for name, reaction in cases.IMAGES.items() if reaction and name not in cases.EITHER}
    done = {Path(i["file_name"]).name for i in json.loads((tmp_path / "out" / "images.json").read_text())["images"]}
    given = {p.name for p in folder.iterdir() if p.suffix.lower() in images.SUFFIXES}
    reported = {name for name in given if any(f"/{name}" in line for line in err.splitlines())}
    assert done | reported == given
    assert not done & reported
    assert reported - cases.EITHER == broken & given


def test_names_that_are_long_or_not_utf8(tmp_path, monkeypatch, capsys):
    names = [os.fsencode("\u87ba" * 80 + ".png"), b"n" * 251 + b".png", b"caf\xe9.png", b"new\nline.png"]
    for name in names:
        picture(tmp_path / "in" / os.fsdecode(name))
    code, out, err = run(monkeypatch, capsys, "--out", tmp_path / "out", tmp_path / "in")
    assert (code, err) == (0, "")
    assert out.startswith("4 of 4 images")
    listed = json.loads((tmp_path / "out" / "images.json").read_text())["images"]
    assert {os.fsencode(Path(image["file_name"]).name) for image in listed} == set(names)
    assert all((tmp_path / "out" / image["picture"]).is_file() for image in listed)
    assert b"/caf\xe9.png," in (tmp_path / "out" / "detections.csv").read_bytes()


def test_an_input_without_a_picture_stops_nothing_and_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "photos").mkdir()
    (tmp_path / "empty").mkdir()
    picture(tmp_path / "photos" / "a.png")
    given = [tmp_path / "photos", tmp_path / "empty", tmp_path / "*.gif"]
    code, out, err = run(monkeypatch, capsys, "--out", tmp_path / "out", *given)
    assert (code, err) == (0, "")
    assert out.startswith("1 of 1 images")
    assert f"left out: 2 inputs without a picture ({tmp_path / 'empty'}, {tmp_path / '*.gif'})" in out
    code, out, err = run(monkeypatch, capsys, "--out", tmp_path / "other", *given[1:])
    assert code == 1
    assert err.startswith(f"error: {tmp_path / 'empty'}: no image in this folder")
    assert "; nor in 1 others" in err


def test_hidden_folders_and_links_are_counted(tmp_path):
    from dyhead_jax.inference import inputs

    (tmp_path / "photos" / ".hidden").mkdir(parents=True)
    (tmp_path / "photos" / "link").symlink_to(tmp_path)
    picture(tmp_path / "photos" / "a.png")
    assert inputs.find([tmp_path / "photos"]).left_out == {"hidden folders": 1, "links to folders": 1}


def test_a_picture_for_which_the_network_gives_nan_is_named_and_the_others_are_done(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "in"
    for name in ("a.png", "c.png", "d.png"):
        picture(folder / name)
    pictures.save(np.full((40, 60, 3), 77, np.uint8), folder / "b.png")
    code, text, err = run(monkeypatch, capsys, "--batch", "2", "--out", tmp_path / "out", folder)
    assert code == 1
    assert err.startswith(f"error: {folder / 'b.png'}: the network's result is not a number (NaN) for 1 of 1 images")
    assert err.count("\n") == 1
    assert text.startswith("3 of 4 images, 3 boxes")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [Path(result["file_name"]).name for result in found] == ["a.png", "c.png", "d.png"]
