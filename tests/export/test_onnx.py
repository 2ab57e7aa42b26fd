"""ONNX files give the model's boxes in onnxruntime, at any batch size. Needs the extra `onnx`."""

import json
import re
import sys

import jax
import numpy as np
import pytest

from dyhead_jax.boxes.postprocess import LevelScores, detections, select_levels
from dyhead_jax.config import FasterRCNNConfig
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.export import onnx_files
from dyhead_jax.export.onnx_nms import graph_text
from dyhead_jax.training.steps import make_detect
from tests.export.command import run
from tests.inference import tiny_run

CANVAS = (32, 48)
OUTPUTS = ("boxes", "scores", "labels")
ANCHORS = (60, 24, 6)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_run.write_workdir(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("data"))


def test_a_missing_package_is_named(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "jax2onnx", None)
    code, out, err = run("--workdir", workdir, "--format", "onnx", "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err.startswith("error: ONNX needs a package that is not installed (jax2onnx): pip install ")
    assert list(tmp_path.iterdir()) == []


def random_levels(rng, images=2, classes=3):
    levels = []
    for anchors in ANCHORS:
        corner = rng.uniform(-8, 40, (images, anchors, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(-1, 30, (images, anchors, 2))], axis=2)
        scores = rng.uniform(0, 1, (images, anchors, classes)).round(2)  # rounded: some are equal
        rank = np.where(scores > 0.3, scores * rng.uniform(0.5, 1, scores.shape), 0)
        levels.append(LevelScores(*(x.astype(np.float32) for x in (boxes, scores, rank))))
    return levels


@pytest.mark.parametrize("clip_boxes", ["before", "after"])
@pytest.mark.parametrize(("per_level", "keep"), [(50, 20), (1000, 300), (7, 100)])
def test_suppression_equals_that_of_the_model(clip_boxes, per_level, keep):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    import onnx.parser

    text = graph_text(
        [(anchors, 3) for anchors in ANCHORS], per_level=per_level, threshold=0.5, keep=keep, clip_boxes=clip_boxes
    )
    model = onnx.helper.make_model(
        onnx.parser.parse_graph(text), opset_imports=[onnx.helper.make_opsetid("", onnx_files.OPSET)], ir_version=10
    )
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    for seed in range(5):
        levels = random_levels(np.random.default_rng(seed))
        sizes = np.array([[48, 40], [30, 64]], np.int32)
        expected = detections(select_levels(levels, per_level), sizes, 0.5, keep, clip_boxes)
        feed = {f"l{n}_{part}": getattr(level, part) for n, level in enumerate(levels) for part in level._fields}
        found = session.run(list(OUTPUTS), {"sizes": sizes, **feed})
        for name, given in zip(OUTPUTS, found, strict=True):
            np.testing.assert_array_equal(given, np.asarray(getattr(expected, name)), err_msg=name)
        assert (found[1] > 0).sum() > 10


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    pytest.importorskip("jax2onnx", reason="needs the extra `onnx`")
    folder = tmp_path_factory.mktemp("out") / "mine_onnx"
    tiny_run.Image.fromarray(tiny_run.noise(50, 60)).save(folder.parent / "a.png")
    tiny_run.Image.fromarray(tiny_run.noise(60, 30)).save(folder.parent / "b.png")
    arguments = ("--workdir", workdir, "--format", "onnx", "--out", folder, "--check")
    code, out, err = run(*arguments, folder.parent / "a.png", folder.parent / "b.png")
    assert code == 0, out + err
    assert re.search(r"2 pictures, \d+ boxes: largest difference .* 0 boxes of only one", out)
    return folder


@pytest.mark.filterwarnings("default")  # jax2onnx and its parts warn of themselves
def test_any_batch_size(exported, workdir):
    loaded = load_for_inference(workdir)
    detect = onnx_files.open_folder(exported, loaded.config.data.canvases)
    for count in (1, 3):
        images = np.stack([tiny_run.noise(*CANVAS, seed=seed) for seed in range(count)])
        sizes = np.array([CANVAS, (20, 40), (32, 10)], np.int32)[:count]
        expected = jax.jit(make_detect(loaded.model))(loaded.variables, images, sizes)
        found = detect(images, sizes)
        for name in OUTPUTS:
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=1e-3, err_msg=name)
        assert (np.asarray(found.scores) > 0).sum() > 3 * count
    content = json.loads((exported / "export.json").read_text())
    assert content["outputs"] == list(OUTPUTS)
    assert [canvas["file"] for canvas in content["canvases"]] == ["model_32x48.onnx", "model_48x32.onnx"]


@pytest.mark.filterwarnings("default")
def test_raw_predictions_are_those_of_every_anchor(workdir):
    pytest.importorskip("jax2onnx", reason="needs the extra `onnx`")
    import onnxruntime

    loaded = load_for_inference(workdir)
    graph = onnx_files.convert(loaded, CANVAS, raw=True)
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    images, sizes = tiny_run.noise(*CANVAS)[None], np.array([CANVAS], np.int32)
    boxes, scores = session.run(["boxes", "scores"], {"images": images, "sizes": sizes})
    levels = loaded.model.apply(
        loaded.variables, images, sizes, method=lambda model, *batch: model.candidates(model.features(*batch))
    )
    np.testing.assert_allclose(boxes, np.concatenate([level.boxes for level in levels], axis=1), atol=1e-3)
    np.testing.assert_allclose(scores, np.concatenate([level.scores for level in levels], axis=1), atol=1e-5)


def test_two_stages_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_files, "check_installed", lambda: None)
    config = tiny_run.make_config(tmp_path)
    config.model.head = FasterRCNNConfig()
    loaded = tiny_run.untrained(config)
    with pytest.raises(ValueError, match="a FasterRCNN cannot be written as ONNX, only one-stage detectors"):
        onnx_files.write(tmp_path, loaded)
    assert list(tmp_path.iterdir()) == []
