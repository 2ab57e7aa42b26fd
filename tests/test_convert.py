"""Weights of other projects through the command line and back; full-size models by shapes alone."""

import dataclasses
import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command, config, convert, detectors, layouts, predict, state_dict, steps
from dyhead_jax.config import Config, DataConfig, DyHeadConfig, ModelConfig, ResNetConfig
from tests import torch_writer
from tests.parity import mmdet_model
from tests.parity.goldens import Case, cases, folder

NAMES = folder() / "state_dict_names.json"
needs_names = pytest.mark.skipif(not NAMES.is_file(), reason=f"no {NAMES.name} in {folder()}; set DYHEAD_GOLDENS")
D = {case.name[:3]: case for case in cases("D")}
needs_d01 = pytest.mark.skipif("D01" not in D, reason=f"no golden case D01 in {folder()}; set DYHEAD_GOLDENS")


def shapes_of(model: ModelConfig, canvas=(64, 64)):
    built = detectors.build(model)
    return jax.eval_shape(lambda: steps.init_variables(built, jax.random.key(0), canvas))


def stand_ins(shapes: dict[str, list[int]]) -> dict[str, np.ndarray]:
    """Arrays of these shapes that take no memory."""
    return {name: np.broadcast_to(np.zeros((), np.float32), shape) for name, shape in shapes.items()}


def hollow(tree):
    return jax.tree.map(lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), tree)


def count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def full_size(**changes) -> ModelConfig:
    """ATSS with R-50 and six blocks; the config's defaults are the official ones."""
    return dataclasses.replace(ModelConfig(backbone=ResNetConfig(style="caffe")), **changes)


MMDET = {"dyhead": DyHeadConfig(dcn_bias=False, lineage="mmdet")}


@needs_names
def test_full_size_mmdetection_model():
    theirs = json.loads(NAMES.read_text())["mmdet atss_r50-caffe_fpn_dyhead (full size)"]
    model = full_size(**MMDET)
    shapes = shapes_of(model)
    found = state_dict.match(layouts.detector(model, layouts.detect(theirs)), stand_ins(theirs), shapes)
    assert f"{count(shapes['params']) / 1e6:.2f}" == "38.90"
    assert set(found.left) == {name for name in theirs if name.endswith("num_batches_tracked")}
    assert not found.kept
    assert not found.constant
    assert len(found.names) + len(found.left) == len(theirs)
    back = state_dict.save(layouts.detector(model, "mmdet"), hollow(shapes))
    assert {k: list(v.shape) for k, v in back.items()} == {k: v for k, v in theirs.items() if k not in found.left}


@needs_names
def test_full_size_official_model():
    """The file has the names of a block, the head; those of backbone and neck are detectron2's."""
    parts = json.loads(NAMES.read_text())
    model = full_size()
    shapes = shapes_of(model)
    table = layouts.detector(model, "official")
    theirs = {k: list(v.shape) for k, v in state_dict.save(table, hollow(shapes)).items()}
    block = parts["official DyConv block (prefix backbone.dyhead_tower.N.)"]
    for i in range(6):
        mine = {k: v for k, v in theirs.items() if k.startswith(f"backbone.dyhead_tower.{i}.")}
        assert mine == {f"backbone.dyhead_tower.{i}.{k}": v for k, v in block.items()}
        assert count(shapes["params"]["dyhead"][f"block_{i}"]) == 1_917_276
    head = parts["official ATSSHead (prefix head.)"]
    assert {k: v for k, v in theirs.items() if k.startswith("head.")} == {f"head.{k}": v for k, v in head.items()}
    rest = {k for k in theirs if not k.startswith(("backbone.dyhead_tower.", "head."))}
    assert {"backbone.backbone.bottom_up.res5.2.conv3.norm.running_var", "backbone.backbone.fpn_lateral3.bias"} <= rest
    assert "backbone.backbone.top_block.p7.weight" in rest
    theirs |= {"pixel_mean": [3, 1, 1], "anchor_generator.cell_anchors.0": [1, 4]}
    assert layouts.detect(theirs) == "official"
    found = state_dict.match(table, stand_ins(theirs), shapes)
    assert set(found.left) == {"pixel_mean", "anchor_generator.cell_anchors.0"}
    assert not found.kept


@needs_names
@pytest.mark.parametrize("case", [D[k] for k in ("D03", "D04", "D05", "D06", "D07", "D08") if k in D], ids=str)
def test_models_of_the_golden_cases(case: Case):
    """Names of mmdetection's RetinaNet, FCOS, RepPoints, Faster R-CNN and Swin; a ResNet's are added from our table."""
    theirs = next(v for k, v in json.loads(NAMES.read_text()).items() if case.name in k)
    model = mmdet_model.model_config(case.manifest["params"]["config"])
    shapes = shapes_of(model)
    table = layouts.detector(model, "mmdet")
    known = {k: list(v.shape) for k, v in state_dict.save(table, hollow(shapes)).items()}
    theirs = theirs | {k: v for k, v in known.items() if k.startswith("backbone.") and "backbone.layer" in k}
    theirs = theirs | {k: v for k, v in known.items() if k.startswith(("backbone.conv1", "backbone.bn1"))}
    assert layouts.detect(theirs) == "mmdet"
    found = state_dict.match(table, stand_ins(theirs), shapes)
    assert all(name.endswith("relative_position_index") for name in found.left)
    assert all("backbone/norm0" in path for path in found.kept)
    assert set(theirs) == set(found.names.values()) | set(found.left)


@needs_names
def test_official_swin():
    theirs = json.loads(NAMES.read_text())["official swint names (tiny widths; prefix backbone.backbone.bottom_up.)"]
    prefix = "backbone.backbone.bottom_up."
    found = layouts.find_backbone([prefix + name for name in theirs])
    assert (found.layout, found.prefix) == ("swin-official", prefix)
    depths = [max(int(k.split(".")[3]) for k in theirs if k.startswith(f"layers.{i}.blocks")) + 1 for i in range(4)]
    swin = config.SwinConfig(features=8, depths=tuple(depths), heads=(1, 2, 4, 8))
    shapes = shapes_of(full_size(backbone=swin))
    here = {"params": shapes["params"]["backbone"]}
    matched = state_dict.match(found.table, stand_ins(theirs), here)
    assert matched.kept == ("params/norm0/bias", "params/norm0/scale")
    assert all(name.endswith("relative_position_index") for name in matched.left)


# through the command line, with the tiny golden case D01


def config_file(path: Path, model: ModelConfig, **data) -> Path:
    settings = DataConfig(canvases=((128, 160),), short_side=(128,), long_side=160)
    path.with_suffix(".json").write_text(
        config.to_json(Config(model=model, data=dataclasses.replace(settings, **data)))
    )
    path.write_text(
        "from dyhead_jax import config\n\n\ndef get_config():\n"
        f"    return config.load_file({str(path.with_suffix('.json'))!r})\n"
    )
    return path


def run(main, capsys, monkeypatch, *arguments) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, "argv", ["command", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        command.run(main)
    out = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, out.out, out.err


@pytest.fixture
def shell(capsys, monkeypatch):
    return lambda main, *arguments: run(main, capsys, monkeypatch, *arguments)


@pytest.fixture(scope="module")
def d01(tmp_path_factory):
    """A file as mmdetection writes it, and the config of its model. The golden input is a grid of sixteenths: pixels
    128 + 16 x give it back to the bit under mean 128 and std 16."""
    folder = tmp_path_factory.mktemp("d01")
    case = D["D01"]
    model = mmdet_model.model_config(case.manifest["params"]["config"])
    model = dataclasses.replace(model, pixel_mean=(128.0,) * 3, pixel_std=(16.0,) * 3)
    weights = {k: np.asarray(v, np.float32) for k, v in case.under("w/").items()}
    weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    weights["backbone.bn1.num_batches_tracked"] = np.array(7, np.int64)
    meta = {"dataset_meta": {"classes": tuple("abcdefgh")}, "epoch": 12}
    meta["cfg"] = "data_preprocessor=dict(bgr_to_rgb=True, mean=[128.0, 128.0, 128.0], std=[16.0, 16.0, 16.0])"
    path = torch_writer.save(folder / "d01.pth", weights, "state_dict", meta=meta, optimizer={"lr": 0.1})
    return case, model, weights, path


@needs_d01
@pytest.mark.parametrize("image", [0, 1])
def test_a_pth_predicts_the_golden_boxes(d01, image, shell, tmp_path):
    case, model, _, path = d01
    height, width = (int(n) for n in case["in/img_shape"][image])
    file = config_file(tmp_path / "c.py", model, short_side=(min(height, width),), long_side=max(height, width))
    work = tmp_path / "run"
    code, out, err = shell(convert._main, path, f"--config={file}", f"--workdir={work}")
    assert (code, err) == (0, "")
    weights = {k: v for k, v in case.under("w/").items() if "num_batches" not in k}
    number = sum(v.size for k, v in weights.items() if "running" not in k)
    assert f"matched: {len(weights)} arrays, {number:,} parameters" in out
    assert "left in the file: 1 arrays like backbone.bn1.num_batches_tracked: counters of batch norm" in out
    assert "left in the model: nothing" in out
    assert "warning" not in out
    assert "classes: 8, of the checkpoint" in out

    pixels = case["in/img"][image].transpose(1, 2, 0)[:height, :width] * 16 + 128
    np.testing.assert_array_equal(pixels, pixels.astype(np.uint8))
    Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "input.png")
    code, _, err = shell(
        predict._main, "--workdir", work, "--out", tmp_path / "out", "--score", "0", tmp_path / "input.png"
    )
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [r["category_id"] - 1 for r in found] == case[f"det.{image}.labels"].tolist()
    corners = np.array([[*r["bbox"][:2], r["bbox"][0] + r["bbox"][2], r["bbox"][1] + r["bbox"][3]] for r in found])
    np.testing.assert_allclose(corners, case[f"det.{image}.bboxes"], atol=0.01)
    np.testing.assert_allclose([r["score"] for r in found], case[f"det.{image}.scores"], atol=1e-4)
