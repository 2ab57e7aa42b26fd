"""Average precision equals the published numbers; boxes go back to the original image; broken files are named."""

import contextlib
import dataclasses
import itertools
import json
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command, evaluate
from dyhead_jax.config import CocoFolderConfig, Config, DataConfig, EvaluationConfig, ShapesConfig
from dyhead_jax.data import drawing, pipeline
from dyhead_jax.data.source import NO_IMAGE, Example, make_source
from dyhead_jax.evaluation import average_precision
from dyhead_jax.evaluation.split import evaluate_split, to_results
from dyhead_jax.types import Detections
from tests.data.folders import SHARED, rewrite, write_split

needs_shared = pytest.mark.skipif(not (SHARED / "coco_eval").is_dir(), reason=f"{SHARED}/coco_eval is absent")
CASES = {
    "cocoapi_fakebbox100": ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json"),
    "coco_mini_val_noisy": ("instances.json", "detections.json"),
    "coco_mini_val_crowded": ("instances.json", "detections.json"),
}


def run_command(monkeypatch, capsys, *arguments):
    monkeypatch.setattr(sys, "argv", ["evaluate", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(evaluate._main)
    out = capsys.readouterr()
    return ended.value.code, out.out, out.err


@needs_shared
@pytest.mark.parametrize("case", CASES)
def test_the_published_numbers(case, monkeypatch, capsys):
    folder = SHARED / "coco_eval" / case
    expected = json.loads((folder / "expected.json").read_text())
    annotations, detections = (folder / name for name in CASES[case])
    metrics = average_precision.coco_metrics(annotations, average_precision.read_results(detections))
    assert {key: metrics[key] for key in average_precision.KEYS} == pytest.approx(expected["stats"], abs=1e-9)
    for category, value in expected["per_category_AP"].items():
        assert metrics["per_class"][int(category)] == pytest.approx(-1.0 if value is None else value, abs=1e-9)
    assert capsys.readouterr() == ("", "")  # pycocotools prints; nobody should see it

    code, out, err = run_command(monkeypatch, capsys, "--annotations", annotations, "--detections", detections)
    assert (code, err) == (0, "")
    *table, last = out.splitlines()
    assert [line.split()[0] for line in table] == list(average_precision.KEYS)
    for line in table:
        key, value = line.split()[:2]
        assert float(value) == pytest.approx(expected["stats"][key], abs=5.1e-5)
    assert last == average_precision.ap_line(metrics)


def ground_truth(**changes):
    """One image, one large box of category 7, and a category 3 without boxes."""
    annotation = {"id": 1, "image_id": 1, "category_id": 7, "bbox": [10, 10, 100, 100], "area": 10000.0, "iscrowd": 0}
    return {
        "images": [{"id": 1, "file_name": "a.jpg", "height": 200, "width": 200}],
        "annotations": [{**annotation, **changes}],
        "categories": [{"id": 7, "name": "seven"}, {"id": 3, "name": "three"}],
    }


HIT = {"image_id": 1, "category_id": 7, "bbox": [10, 10, 100, 100], "score": 0.5}


def test_hits_misses_and_nothing():
    assert average_precision.coco_metrics(ground_truth(), [HIT])["AP"] == pytest.approx(1.0)
    metrics = average_precision.coco_metrics(ground_truth(), [])
    assert [metrics[key] for key in average_precision.KEYS] == [0, 0, 0, -1, -1, 0, 0, 0, 0, -1, -1, 0]
    assert metrics["per_class"] == {3: -1.0, 7: 0.0}
    half = average_precision.coco_metrics(ground_truth(), [{**HIT, "bbox": [10, 10, 100, 62]}])
    assert half["AP50"] == pytest.approx(1.0)
    assert half["AP"] == pytest.approx(0.3)  # IoU 0.62 passes 0.50, 0.55 and 0.60
    nothing = average_precision.coco_metrics({**ground_truth(), "annotations": []}, [HIT])
    assert nothing["AP"] == -1


def test_a_crowd_is_neither_hit_nor_miss_and_the_arguments_stay_as_they_are():
    truth, results = ground_truth(), [dict(HIT), {**HIT, "bbox": [150, 150, 20, 20], "score": 0.9}]
    crowd = {**truth["annotations"][0], "id": 2, "bbox": [140, 140, 50, 50], "iscrowd": 1}
    truth["annotations"].append(crowd)
    before = json.dumps([truth, results])
    assert average_precision.coco_metrics(truth, results)["AP"] == pytest.approx(1.0)
    assert json.dumps([truth, results]) == before


def test_annotation_id_zero_counts_from_a_file(tmp_path):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(ground_truth(id=0)))
    assert average_precision.coco_metrics(path, [HIT])["AP"] == pytest.approx(1.0)  # pycocotools alone says 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 2}, "image_id 2"),
        ({"image_id": None}, "image_id None"),
        ({"category_id": [7]}, r"category_id \[7\]"),
        ({"score": float("inf")}, "score inf"),
        ({"score": "0.5"}, "score '0.5'"),
        ({"bbox": [1, 2, 3]}, r"bbox \[1, 2, 3\]"),
        ({"bbox": [1, 2, 3, float("nan")]}, "bbox"),
        ({"bbox": [1, 2, -3, 4]}, "negative"),
        ({"bbox": None}, "bbox None"),
    ],
)
def test_a_wrong_record_is_named(change, message):
    with pytest.raises(average_precision.EvaluationError, match=rf"^results: record 1 .*{message}"):
        average_precision.coco_metrics(ground_truth(), [HIT, {**HIT, **change}])


def test_a_record_that_is_no_object():
    with pytest.raises(average_precision.EvaluationError, match="record 0 is a int"):
        average_precision.coco_metrics(ground_truth(), [3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not JSON"),
        (b'{"a": 1}', "holds a dict"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"[" * 99999, "is not JSON"),
    ],
)
def test_files_that_are_no_results(tmp_path, content, message):
    path = tmp_path / "results.json"
    path.write_bytes(content)
    with pytest.raises(average_precision.EvaluationError, match=rf"results\.json {message}"):
        average_precision.read_results(path)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ([], 2),
        (["--annotations", "a.json"], 2),
        (["--workdir", "w", "--detections", "d.json"], 2),
        (["--annotations", "a.json", "--detections", "b.json", "--step", "3"], 2),
        (["--annotations", "absent.json", "--detections", "absent.json"], 1),
        (["--workdir", "absent"], 1),
        (["--workdir", ".", "--out", "absent/out.json"], 1),
    ],
)
def test_wrong_arguments_are_one_line(arguments, code, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert run_command(monkeypatch, capsys, *arguments)[0] == code
    assert list(tmp_path.iterdir()) == []


def test_ap_line_is_exact():
    metrics = {key: i / 7 for i, key in enumerate(average_precision.KEYS)}
    assert average_precision.ap_line(metrics) == "AP 0.0000 AP50 0.1429 AP75 0.2857 APs 0.4286 APm 0.5714 APl 0.7143"


# Boxes back to the original image


def detections(boxes, scores, labels):
    return Detections(boxes=np.array(boxes, np.float32), scores=np.array(scores, np.float32), labels=np.array(labels))


def test_results_are_in_original_pixels_with_the_files_ids():
    boxes = [[[10, 20, 30, 60], [0, 0, 5, 5], [1, 1, 2, 2]], [[-4, -2, 300, 300], [0, 0, 1, 1], [0, 0, 1, 1]]]
    found = detections(boxes, [[0.9, 0.5, 0.0], [0.8, 0.7, 0.6]], [[1, -1, 0], [0, 1, -1]])
    huge = 2**53 + 1
    scales = np.array([[2.0, 0.5], [1.0, 2.0]])
    results = to_results(found, np.array([huge, NO_IMAGE]), scales, (7, 90))
    assert results == [{"image_id": huge, "category_id": 90, "bbox": [20, 10, 40, 20], "score": pytest.approx(0.9)}]
    results = to_results(found, np.array([huge, 5]), scales, (7, 90), np.array([[25, 50], [100, 120]]))
    assert [r["bbox"] for r in results] == [[20, 10, 30, 15], [0, 0, 120, 100], [0, 0, 0.5, 1]]
    assert [r["category_id"] for r in results] == [90, 7, 90]
    json.dumps(results)


@pytest.mark.parametrize(("slot", "value"), [("scores", np.nan), ("scores", np.inf), ("boxes", np.nan)])
def test_a_nan_is_told_not_dropped(slot, value):
    found = detections([[[0, 0, 1, 1], [0, 0, 1, 1]]], [[0.9, 0.8]], [[0, 0]])
    getattr(found, slot)[0, 1] = value
    with pytest.raises(average_precision.EvaluationError, match="image 4: detection 1"):
        to_results(found, np.array([4]), np.ones((1, 2)), (7,))


def test_a_label_without_category_is_told():
    with pytest.raises(average_precision.EvaluationError, match="label 2, but there are 1"):
        to_results(detections([[[0, 0, 1, 1]]], [[0.9]], [[2]]), np.array([4]), np.ones((1, 2)), (7,))


# A whole split through a jitted detector


class Squares:
    """Images with one white square each; sizes that meet both canvases, ids that need 64 bits."""

    class_names = ("square",)
    category_ids = (42,)
    notes = ()

    def __init__(self, count=7):
        rng = np.random.default_rng(0)
        self.sizes = np.array([(40, 60) if i % 3 else (60, 40) for i in range(count)])
        self.image_ids = 2**40 + 10 * np.arange(count)[::-1]
        corners = rng.integers(2, 15, (count, 2))
        self.boxes = np.concatenate([corners, corners + rng.integers(8, 20, (count, 2))], 1).astype(np.float32)
        self.box_counts = np.ones(count, np.int64)

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, i):
        image = np.zeros((*self.sizes[i], 3), np.uint8)
        x1, y1, x2, y2 = self.boxes[i].astype(int)
        image[y1:y2, x1:x2] = 255
        return Example(
            image=image,
            image_id=int(self.image_ids[i]),
            file_name=f"{i}.png",
            boxes=self.boxes[i : i + 1],
            labels=np.zeros(1, np.int32),
            crowd=np.zeros(1, bool),
        )

    def coco(self):
        images, annotations = [], []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            size = {"height": int(self.sizes[i, 0]), "width": int(self.sizes[i, 1])}
            images.append({"id": int(self.image_ids[i]), "file_name": f"{i}.png", **size})
            box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            annotations.append({"id": i + 1, "image_id": int(self.image_ids[i]), "category_id": 42, **box})
        return {"images": images, "annotations": annotations, "categories": [{"id": 42, "name": "square"}]}


DATA = DataConfig(canvases=((80, 128), (128, 80)), short_side=(80,), long_side=128, eval_batch_size=4)
compiled = []


@jax.jit
def find_square(images, sizes):
    """The exact box of what is white, one empty slot behind it. Fails where sizes are not the image's."""
    compiled.append(images.shape)
    white = images[..., 0] > 127
    rows, columns = white.any(2), white.any(1)

    def span(x):
        return jnp.argmax(x, 1), x.shape[1] - jnp.argmax(x[:, ::-1], 1)

    (y1, y2), (x1, x2) = span(rows), span(columns)
    inside = (y2 <= sizes[:, 0]) & (x2 <= sizes[:, 1])
    box = jnp.stack([x1, y1, x2, y2], -1).astype(jnp.float32)
    boxes = jnp.stack([box, jnp.zeros_like(box)], 1)
    scores = jnp.stack([jnp.where(inside, 0.9, 0.0), jnp.zeros(len(images))], 1)
    return Detections(boxes=boxes, scores=scores, labels=jnp.where(scores > 0, 0, -1).astype(jnp.int32))


def test_every_image_once_and_boxes_in_place_compiled_once_a_canvas(capsys):
    compiled.clear()
    split = Squares()
    metrics, results = evaluate_split(find_square, split, DATA)
    assert [r["image_id"] for r in results] == split.image_ids.tolist()
    found = np.array([r["bbox"] for r in results])
    found[:, 2:] += found[:, :2]
    assert np.abs(found - split.boxes).max() <= 0.51  # a threshold between resized pixels
    assert metrics["AP50"] == pytest.approx(1.0)
    assert sorted(compiled) == [(4, 80, 128, 3), (4, 128, 80, 3)]
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("count", [2, 3, 4])
def test_hosts_together_give_what_one_gives(count, monkeypatch):
    from jax.experimental import multihost_utils

    split = Squares(5)
    alone = evaluate_split(find_square, split, DATA)
    shares = []

    def exchange(tree, tiled):
        assert tiled
        shares.append(tree)
        if len(shares) < count:
            raise InterruptedError  # this host's part is known; the next one runs
        return jax.tree.map(lambda *x: np.concatenate(x), *shares)

    monkeypatch.setattr(multihost_utils, "process_allgather", exchange)
    for index in range(count - 1):
        with pytest.raises(InterruptedError):
            evaluate_split(find_square, split, DATA, process_index=index, process_count=count)
    assert evaluate_split(find_square, split, DATA, process_index=count - 1, process_count=count) == alone
    assert all(leaf.dtype.itemsize <= 4 for leaf in jax.tree.leaves(shares))  # JAX would cut wider ones


def test_no_image_id_of_a_file_is_taken_for_padding(tmp_path):
    """-1, a common mark of "none", 0 and 5, in batches of four."""
    ids, squares = [-1, 0, 5], Squares(3)
    for name in ("train", "val"):
        boxes = [[[x1, y1, x2 - x1, y2 - y1]] for x1, y1, x2, y2 in squares.boxes.tolist()]
        content = write_split(tmp_path, name, [(40, 60)] * 3, boxes)
        content["categories"] = [{"id": 7, "name": "b"}]
        for i, (image, annotation) in enumerate(zip(content["images"], content["annotations"], strict=True)):
            image["id"] = annotation["image_id"] = ids[i]
            annotation["category_id"] = 7
            x1, y1, x2, y2 = squares.boxes[i].astype(int)
            picture = np.zeros((40, 60, 3), np.uint8)
            picture[y1:y2, x1:x2] = 255
            Image.fromarray(picture).save(tmp_path / name / image["file_name"])
        rewrite(tmp_path, name, content)
    data = dataclasses.replace(DATA, source=CocoFolderConfig(root=str(tmp_path)), batch_size=2, max_boxes=2)
    source = make_source(data, tmp_path)
    with contextlib.closing(pipeline.train_batches(source.split("train"), data, 0)) as batches:
        seen = [image_id for _ in range(3) for image_id in next(batches).image_ids.tolist()]
    assert sorted(seen) == sorted(2 * ids)  # two passes
    metrics, results = evaluate_split(find_square, source.split("val"), data)
    assert [r["image_id"] for r in results] == ids
    assert metrics["AP50"] == pytest.approx(1.0)
    [last] = pipeline.eval_batches(source.split("val"), data)
    assert last.image_ids.tolist() == [*ids, NO_IMAGE]


def test_a_missing_image_is_noticed(monkeypatch):
    whole = pipeline.eval_batches
    monkeypatch.setattr(pipeline, "eval_batches", lambda *a, **k: itertools.islice(whole(*a, **k), 1))
    with pytest.raises(average_precision.EvaluationError, match="but the split has 7"):
        evaluate_split(find_square, Squares(), DATA)


@pytest.mark.parametrize("flip", [False, True])
def test_images_for_which_the_network_gives_nan_are_counted(flip):
    """Not dropped as images without objects, also where several passes are merged."""
    split, seen = Squares(), []

    def detect(images, sizes):
        found = find_square(images, sizes)
        seen.append(images.shape)
        nan = np.arange(len(images)) == 1  # the second of each batch
        return found.replace(scores=np.where(nan[:, None], np.nan, found.scores))

    with pytest.raises(ValueError, match=r"is not a number \(NaN\) for 2 of 7 images, the first of them image \d+;"):
        evaluate_split(detect, split, DATA, evaluation=EvaluationConfig(flip=flip))
    assert len(seen) == 2 * (1 + flip)  # all of them, so that the count is whole


class WhiteSquares:
    """A model of no parameters for the command."""

    def apply(self, variables, images, sizes, method):
        assert method == "detect"
        return find_square(images, sizes)


@pytest.fixture
def workdir(monkeypatch, tmp_path):
    from dyhead_jax.evaluation import trained_model

    asked = []

    def load(folder, step, trust):
        asked.append((folder, step))
        return SimpleNamespace(
            config=Config(data=DATA),
            model=WhiteSquares(),
            variables={},
            class_names=("square",),
            category_ids=(42,),
            step=12,
        )

    monkeypatch.setattr(trained_model, "load_for_inference", load)
    monkeypatch.setattr(evaluate, "make_source", lambda data, folder: SimpleNamespace(split=lambda name: Squares()))
    return tmp_path, asked


def test_the_command_on_a_workdir(workdir, monkeypatch, capsys):
    folder, asked = workdir
    out = folder / "results.json"
    code, text, err = run_command(monkeypatch, capsys, "--workdir", folder, "--step", 12, "--out", out, "--classes")
    assert (code, err) == (0, "")
    assert asked == [(folder, 12)]
    lines = text.splitlines()
    assert lines[0] == "step 12, 7 images of val"
    assert any(line.split()[0] == "square" for line in lines)
    results = average_precision.read_results(out)
    assert lines[-1] == average_precision.ap_line(average_precision.coco_metrics(Squares().coco(), results))


def test_another_data_set_is_refused(workdir, monkeypatch, capsys):
    monkeypatch.setattr(Squares, "class_names", ("circle",))
    code, _, err = run_command(monkeypatch, capsys, "--workdir", workdir[0])
    assert code == 1
    assert err == (
        f"error: the model of {workdir[0]} has 1 classes, the data 1, and they differ (number, the model of"
        f" {workdir[0]} | data): 1 square | circle; --classes-by-number takes them by number\n"
    )
    code, out, err = run_command(monkeypatch, capsys, "--workdir", workdir[0], "--classes-by-number")
    assert (code, err) == (0, "")
    assert "taken by their numbers, as asked" in out


def test_classes_in_another_order_are_matched_by_name(workdir, monkeypatch, capsys):
    """The data lists another class before the one that the model knows as its first; the ids are the same."""
    from dyhead_jax.evaluation import trained_model

    _, expected, _ = run_command(monkeypatch, capsys, "--workdir", workdir[0])
    loaded = trained_model.load_for_inference(workdir[0], None, trust=[])
    loaded.class_names, loaded.category_ids = ("square", "circle"), (7, 42)
    monkeypatch.setattr(trained_model, "load_for_inference", lambda folder, step, trust: loaded)
    monkeypatch.setattr(Squares, "class_names", ("circle", "square"))
    monkeypatch.setattr(Squares, "category_ids", (7, 42))
    image, truth = Squares.__getitem__, Squares.coco
    other, label = {"id": 7, "name": "circle"}, np.ones(1, np.int32)
    monkeypatch.setattr(Squares, "__getitem__", lambda self, i: dataclasses.replace(image(self, i), labels=label))
    monkeypatch.setattr(Squares, "coco", lambda self: truth(self) | {"categories": [other, *truth(self)["categories"]]})
    code, out, err = run_command(monkeypatch, capsys, "--workdir", workdir[0])
    assert (code, err) == (0, "")
    assert "classes matched by name: the data has them in another order than the model of" in out
    assert out.splitlines()[-1] == expected.splitlines()[-1]
    code, out, _ = run_command(monkeypatch, capsys, "--workdir", workdir[0], "--classes-by-number")
    assert (code, out.splitlines()[-1][:9]) == (0, "AP 0.0000")


def test_nothing_is_written_where_the_config_says(workdir, monkeypatch, capsys, tmp_path):
    """The drawn shapes of a stranger's workdir are drawn below it."""
    from dyhead_jax.evaluation import trained_model

    loaded = trained_model.load_for_inference(workdir[0], None, trust=[])
    elsewhere = tmp_path / "elsewhere"
    source = ShapesConfig(root=str(elsewhere), train_images=1, val_images=1, size=32)
    loaded.config = Config(data=dataclasses.replace(DATA, source=source))
    loaded.class_names = tuple(drawing.NAMES)
    loaded.category_ids = tuple(range(1, len(drawing.NAMES) + 1))
    monkeypatch.setattr(trained_model, "load_for_inference", lambda folder, step, trust: loaded)
    monkeypatch.setattr(evaluate, "make_source", make_source)
    folder = tmp_path / "stranger"
    code, out, _ = run_command(monkeypatch, capsys, "--workdir", folder)
    assert code == 0, out
    assert not elsewhere.exists()
    assert [path.name for path in folder.iterdir()] == ["data"]
    elsewhere.mkdir()
    assert run_command(monkeypatch, capsys, "--workdir", folder)[0] == 0
    assert list(elsewhere.iterdir()) == []
    assert run_command(monkeypatch, capsys, "--workdir", folder, "--data", elsewhere)[0] == 0  # where the caller says
    assert len(list(elsewhere.iterdir())) == 1


def _fractions(box):
    return [value / 200 for value in box]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_fractions, "1 of 1 boxes lie within the first pixel of their picture"),
        (lambda _: [110, 120, 190, 180], "1 of 1 boxes reach beyond their picture, such as [110, 120, 190, 180]: corn"),
    ],
)
@pytest.mark.parametrize("report", [False, True])
def test_detections_in_another_format_are_refused(change, message, report, monkeypatch, capsys, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth()))
    (tmp_path / "found.json").write_text(json.dumps([{**HIT, "bbox": change(HIT["bbox"])}]))
    files = ["--annotations", tmp_path / "truth.json", "--detections", tmp_path / "found.json"]
    code, out, err = run_command(monkeypatch, capsys, *files, *(["--report", tmp_path / "r"] if report else []))
    assert (code, out) == (1, "")
    assert err.startswith(f"error: {tmp_path / 'found.json'}: {message}")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()
    truth = ground_truth(bbox=_fractions(HIT["bbox"]))  # both in fractions: nothing contradicts
    results = [{**HIT, "bbox": _fractions(HIT["bbox"])}]
    average_precision.check_format(truth, results, "x")


@pytest.mark.parametrize("key", ["score", "image_id", "category_id", "bbox"])
@pytest.mark.parametrize("digits", [400, 5_000])
def test_numbers_of_many_digits_are_one_line(key, digits, monkeypatch, capsys, tmp_path):
    (tmp_path / "truth.json").write_text(json.dumps(ground_truth()))
    text = json.dumps([{**HIT, key: [1, 1, 77, 1] if key == "bbox" else 77}])
    (tmp_path / "found.json").write_text(text.replace("77", "7" * digits))
    files = ["--annotations", tmp_path / "truth.json", "--detections", tmp_path / "found.json"]
    code, _, err = run_command(monkeypatch, capsys, *files)
    assert code == 1
    assert err.startswith(f"error: {tmp_path / 'found.json'}")
    assert err.count("\n") == 1
    assert len(err) < 400
