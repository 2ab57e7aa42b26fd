"""`dyhead_jax.load`: the boxes of evaluation, whatever people hand in, from several threads, compiled once a canvas."""

import subprocess
import sys
import threading
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

import dyhead_jax
from dyhead_jax.data.source import DataError, make_source
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.inference.tiles import make_tiles, merge
from dyhead_jax.training.steps import make_detect
from tests.inference import tiny_run


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny_run.write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def workdir(tmp_path_factory, data):
    return tiny_run.write_workdir(tmp_path_factory.mktemp("run"), data)


@pytest.fixture(scope="module")
def model(workdir):
    return dyhead_jax.load(workdir, batch_size=4)


def same(a, b):
    for field in ("boxes", "scores", "labels"):
        np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_importing_the_package_imports_no_jax():
    code = "import sys, dyhead_jax; assert not {'jax', 'flax', 'numpy'} & set(sys.modules); print(dyhead_jax.load)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("<function load")


def test_the_boxes_are_those_of_evaluation(model, workdir, data):
    loaded = load_for_inference(workdir)
    split = make_source(loaded.config.data, workdir).split("val")
    detect = jax.jit(make_detect(loaded.model))
    _, results = evaluate_split(lambda *batch: detect(loaded.variables, *batch), split, loaded.config.data)
    paths = [data / "val" / f"{row}.png" for row in range(len(split))]
    every = model(paths, score=0)
    assert sum(map(len, every)) == len(results) > 50
    for found, image_id in zip(every, split.image_ids, strict=True):
        own = [result for result in results if result["image_id"] == image_id]
        corners = [[x, y, x + w, y + h] for x, y, w, h in (result["bbox"] for result in own)]
        np.testing.assert_array_equal(found.boxes, np.array(corners, np.float32))
        np.testing.assert_array_equal(found.scores, np.array([result["score"] for result in own], np.float32))
        assert [model.category_ids[label] for label in found.labels] == [result["category_id"] for result in own]
        assert [one["category_id"] for one in found.to_coco()] == [result["category_id"] for result in own]
        assert (np.diff(found.scores) <= 0).all()


def test_kinds_of_pictures(model, tmp_path):
    image = tiny_run.noise(40, 60)
    Image.fromarray(image).save(tmp_path / "a.png")
    expected = model(image, score=0)
    assert len(expected) > 3
    alpha = np.dstack([image, np.zeros((40, 60), np.uint8)])
    for picture in (tmp_path / "a.png", str(tmp_path / "a.png"), Image.fromarray(image), alpha, Image.fromarray(alpha)):
        same(model(picture, score=0), expected)
    grey = image[:, :, 0]
    for picture in (grey, grey[:, :, None], Image.fromarray(grey), np.repeat(grey[:, :, None], 3, 2)):
        same(model(picture, score=0), model(np.repeat(grey[:, :, None], 3, 2), score=0))
    assert model([]) == []
    several = model((image, tmp_path / "a.png"), score=0)
    assert isinstance(several, list)
    for found in several:
        same(found, expected)


@pytest.mark.parametrize(
    ("picture", "error", "message"),
    [
        (np.zeros((4, 4, 3)), DataError, "the picture is an array of float64; pixels are uint8"),
        (np.zeros((2, 4, 4, 3), np.uint8), DataError, r"the picture is an array \(2, 4, 4, 3\); give"),
        (np.zeros((3, 4, 4, 1), np.uint8)[..., 0].transpose(1, 2, 0)[:, :, :2], DataError, r"array \(4, 4, 2\)"),
        (np.zeros((0, 4, 3), np.uint8), DataError, r"array \(0, 4, 3\)"),
        ([np.zeros((4, 4, 3), np.uint8), 7], TypeError, "picture 1 is a int; give a path"),
        ("absent.jpg", FileNotFoundError, "absent.jpg"),
    ],
)
def test_other_pictures_are_refused(picture, error, message, model):
    with pytest.raises(error, match=message):
        model(picture)


def test_score_and_batch_size(model):
    image = tiny_run.noise(40, 60)
    every = model(image, score=0)
    middle = float(every.scores[len(every) // 2])
    kept = model(image, score=middle)
    assert 0 < len(kept) < len(every)
    assert kept.scores.min() >= np.float32(middle)
    np.testing.assert_array_equal(kept.boxes, every.boxes[: len(kept)])
    for arguments, message in (({"score": 1.5}, "score 1.5"), ({"batch_size": 0}, "batch_size 0")):
        with pytest.raises(ValueError, match=message):
            model(image, **arguments)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_photographs_are_upright(orientation, model, tmp_path):
    upright = tiny_run.noise(40, 60)
    turn = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: np.rot90(upright[:, ::-1], -1),
        8: np.rot90(upright, -1),
    }
    stored = np.ascontiguousarray(turn[orientation])
    tiny_run.save_with_orientation(stored, tmp_path / "a.png", orientation)
    found = model(tmp_path / "a.png", score=0)
    np.testing.assert_array_equal(found.image, upright)
    same(found, model(upright, score=0))
    with Image.open(tmp_path / "a.png") as opened:
        same(model(opened, score=0), found)


@pytest.mark.long
def test_one_program_a_canvas_whatever_the_threads(workdir):
    model = dyhead_jax.load(workdir)
    traced = []
    detect = model._detect
    model._detect = lambda *arguments: (traced.append(arguments[1].shape), detect(*arguments))[1]
    wide, tall = tiny_run.noise(40, 60), tiny_run.noise(60, 40)
    results, start = {}, threading.Barrier(8)

    def call(number):
        start.wait()
        for _ in range(5):
            results[number] = model(wide if number % 2 else tall, score=0)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(traced) == [(1, 32, 48, 3), (1, 48, 32, 3)]
    assert len(results) == 8
    for number, found in results.items():
        same(found, model(wide if number % 2 else tall, score=0))
    assert len(traced) == 2


def test_what_is_found_tells(model):
    found = model(tiny_run.noise(40, 60), score=0)
    assert (found.width, found.height) == (60, 40)
    first = next(iter(found))
    assert first == (found.names[0], float(found.scores[0]), tuple(found.boxes[0].tolist()), int(found.labels[0]))
    assert repr(found).startswith(f"<{len(found)} objects in 60x40 pixels: {first.name} {first.score:.2f}, ")
    assert repr(model(tiny_run.noise(40, 60), score=1)) == "<no objects in 60x40 pixels>"
    assert set(found.names) <= {"a", "b"} == set(model.class_names)
    drawn = found.draw()
    assert drawn.size == (60, 40)
    assert not np.array_equal(np.asarray(drawn), found.image)
    x1, y1, x2, y2 = found.boxes[0].astype(np.float64).tolist()
    expected = {"image_id": 5, "category_id": tiny_run.IDS[first.label], "bbox": [x1, y1, x2 - x1, y2 - y1]}
    assert found.to_coco(5)[0] == {**expected, "score": first.score}


def test_supervision_is_named_where_it_is_missing(model, monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match=r"pip install 'dyhead-jax\[supervision\]'"):
        model(tiny_run.noise(40, 60)).to_supervision()


def test_the_model_says_what_it_is(model):
    assert repr(model) == "<Model of 2 classes (a, b), step 0>"
    assert (model.class_names, model.category_ids, model.config.model.num_classes) == (("a", "b"), (3, 7), 2)


def test_other_files_are_refused(tmp_path):
    path = Path(tmp_path / "weights.pth")
    path.write_bytes(b"x")
    with pytest.raises(ValueError, match=r"weights.pth is a file; give a folder"):
        dyhead_jax.load(path)


def test_tiles_are_pictures_of_their_own(model):
    image = tiny_run.noise(70, 130)
    tiles = make_tiles(70, 130, 48, 0.2)
    assert len(tiles) == 1 + 2 * 4
    parts = model.detect([image[t.y1 : t.y2, t.x1 : t.x2] for t in tiles], 0.5)
    expected = merge(parts, tiles, model.config.evaluation.merge_threshold)
    found = model([image, tiny_run.noise(20, 20)], 0.5, tiles=48)
    same(found[0], expected)
    same(found[1], model(tiny_run.noise(20, 20), 0.5))
    assert found[0].image.shape == (70, 130, 3)
