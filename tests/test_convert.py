"""Weights of other projects through the command line and back; full-size models by shapes alone."""

import dataclasses
import json
import pickle
import re
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dyhead_jax import (
    anchors,
    checkpoint,
    command,
    config,
    convert,
    detectors,
    layouts,
    names,
    predict,
    provenance,
    state_dict,
    steps,
    weights_file,
)
from dyhead_jax.config import Config, DataConfig, DyHeadConfig, FPNConfig, ModelConfig, ResNetConfig
from dyhead_jax.data import coco_categories
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


def numbers(lineage: str) -> tuple[int, ...]:
    """Parameters of the whole and of a block, as docs/fidelity.md has them."""
    text = (Path(__file__).parents[1] / "docs" / "fidelity.md").read_text()
    (row,) = (line for line in text.splitlines() if re.match(rf"\| {lineage} \| [\d,]+ \|", line))
    return tuple(int(cell.replace(",", "")) for cell in row.split("|")[2:4])


MMDET = {"dyhead": DyHeadConfig(dcn_bias=False, lineage="mmdet")}


@needs_names
def test_full_size_mmdetection_model():
    theirs = json.loads(NAMES.read_text())["mmdet atss_r50-caffe_fpn_dyhead (full size)"]
    model = full_size(**MMDET)
    shapes = shapes_of(model)
    found = state_dict.match(layouts.detector(model, layouts.detect(theirs)), stand_ins(theirs), shapes)
    assert f"{count(shapes['params']) / 1e6:.2f}" == "38.90"
    assert numbers("mmdet") == (count(shapes["params"]), count(shapes["params"]["dyhead"]["block_0"]))
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
    assert numbers("official") == (count(shapes["params"]), 1_917_276)
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
    assert "warning:" not in out
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


@needs_d01
def test_there_and_back_to_the_bit(d01, shell, tmp_path):
    """.pth to a workdir, to .safetensors and .npz, and again: the arrays of the first file, all of them."""
    pytest.importorskip("safetensors")
    _, model, weights, path = d01
    file = config_file(tmp_path / "c.py", model)
    assert shell(convert._main, path, f"--config={file}", f"--workdir={tmp_path / 'one'}")[0] == 0
    for ending in ("safetensors", "npz"):
        out = tmp_path / f"out.{ending}"
        code, said, err = shell(
            convert._main, "--to-torch", f"--workdir={tmp_path / 'one'}", "--layout=mmdet", "--out", out
        )
        assert (code, err) == (0, "")
        assert f"{len(weights) - 1} arrays" in said
        back, _ = weights_file.read(out)
        assert back.keys() == weights.keys() - {"backbone.bn1.num_batches_tracked"}
        for name, array in back.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, weights[name].reshape(array.shape))
            assert array.shape == d01[0]["w/" + name].shape
        code, _, err = shell(
            convert._main, "--to-torch", f"--workdir={tmp_path / 'one'}", "--layout=mmdet", "--out", out
        )
        assert (code, err) == (1, f"error: {out} exists; it is not written over\n")
    assert shell(convert._main, out, f"--config={file}", f"--workdir={tmp_path / 'two'}")[0] == 0
    one, two = (checkpoint.load_for_inference(tmp_path / name).variables for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


# small models without golden files


SMALL = ModelConfig(
    num_classes=6,  # of the drawn shapes
    backbone=ResNetConfig(depth=18, width=4, norm="eval", frozen_stages=-1),
    neck=FPNConfig(features=16, levels=4),
    dyhead=DyHeadConfig(num_blocks=1, features=16, norm_groups=4),
)

# compiling the draws of a new model's weights takes half a second each: little is left to draw here
SMALLER = dataclasses.replace(
    SMALL, neck=FPNConfig(features=16, start=3, levels=1), dyhead=DyHeadConfig(num_blocks=0, features=16)
)


@pytest.fixture(scope="module")
def small():
    """Variables of SMALL, none of them a starting value."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1.0, leaf.shape).astype(np.float32), shapes_of(SMALL))


@pytest.fixture
def small_file(tmp_path):
    return config_file(tmp_path / "small.py", SMALL, canvases=((64, 64),), short_side=(64,), long_side=64)


def test_official_names_there_and_back(small, tmp_path):
    table = layouts.detector(SMALL, "official")
    state = state_dict.save(table, small)
    assert state["head.scales.1.scale"].shape == (1,)
    found = convert.convert(Config(model=SMALL, data=DataConfig(canvases=((64, 64),))), state)
    assert (found.layout, found.part, found.match.left) == ("official", "", {})
    jax.tree.map(np.testing.assert_array_equal, found.variables, small)


def test_a_backbone_leaves_the_rest_as_a_new_model_has_it(small, shell, tmp_path):
    inner = {name: tree["backbone"] for name, tree in small.items()}
    state = state_dict.save(layouts.BACKBONES["resnet"][1], inner) | {"fc.weight": np.zeros((10, 32), np.float32)}
    path = torch_writer.save(tmp_path / "resnet18.pth", state)
    file, work = config_file(tmp_path / "c.py", SMALLER, canvases=((64, 64),)), tmp_path / "run"
    code, out, err = shell(convert._main, path, f"--config={file}", "--config.seed=3", f"--workdir={work}")
    assert (code, err) == (0, "")
    assert "left in the file: 1 arrays like fc.weight: the ImageNet classifier" in out
    assert "parameters of box_predictor, centerness_predictor, class_predictor, neck, scales: they start" in out
    assert "the file does not tell what it was trained on" in out
    got = checkpoint.load_for_inference(work)
    assert got.step == 0
    assert got.class_names == tuple(f"class {i}" for i in range(1, 7))
    variables = got.variables["params"]
    jax.tree.map(np.testing.assert_array_equal, variables["backbone"], small["params"]["backbone"])
    model = detectors.build(SMALLER)
    fresh = jax.jit(lambda: steps.init_variables(model, jax.random.key(3), (64, 64))["params"]["class_predictor"])()
    jax.tree.map(np.testing.assert_array_equal, variables["class_predictor"], jax.device_get(fresh))


def test_only_the_backbone_of_a_whole_detector(small):
    state = state_dict.save(layouts.detector(SMALL, "official"), small)
    settings = Config(model=SMALLER, seed=3, data=DataConfig(canvases=((64, 64),)))
    found = convert.convert(settings, state, backbone_only=True)
    assert (found.layout, found.part) == ("resnet-detectron2", "backbone")
    jax.tree.map(np.testing.assert_array_equal, found.variables["params"]["backbone"], small["params"]["backbone"])
    assert {name.split(".")[0] for name in found.outside} == {"backbone", "head"}
    assert any("not the backbone" in line for line in convert.report(found, state))


def test_averaged_and_other_weights_of_a_file(small, small_file, shell, tmp_path):
    """mmdetection saves the averaged weights under the main names; --key takes the other ones."""
    state = state_dict.save(layouts.detector(SMALL, "official"), small)
    other = {f"module.{name}": np.asarray(array + 1) for name, array in state.items()} | {"steps": np.array(5)}
    file = {"state_dict": state, "ema_state_dict": other, "meta": {"epoch": 1}}
    path = tmp_path / "both.pth"
    path.write_bytes(pickle.dumps(file, protocol=2))
    arguments = [path, f"--config={small_file}"]
    code, _, err = shell(convert._main, *arguments, f"--workdir={tmp_path / 'w'}", "--key=ema_state_dict")
    assert code == 1
    assert "no place for steps" in err
    mmdet = dataclasses.replace(SMALL, dyhead=dataclasses.replace(SMALL.dyhead, dcn_bias=False))
    arrays = state_dict.save(layouts.detector(mmdet, "mmdet"), without_dcn_bias(small))
    noisy = arrays | {"ema_backbone_conv1_weight": np.zeros(1), "data_preprocessor.mean": np.zeros((3, 1, 1))}
    found = convert.convert(Config(model=mmdet, data=DataConfig(canvases=((64, 64),))), noisy)
    assert found.match.left.keys() == {"ema_backbone_conv1_weight", "data_preprocessor.mean"}
    jax.tree.map(np.testing.assert_array_equal, found.variables, without_dcn_bias(small))
    averaged = {f"module.{name}": np.asarray(array + 1) for name, array in arrays.items()} | {"steps": np.array(5)}
    path.write_bytes(pickle.dumps({"state_dict": arrays, "ema_state_dict": averaged}, protocol=2))
    read, _ = weights_file.read(path, "ema_state_dict")
    found = convert.convert(Config(model=mmdet, data=DataConfig(canvases=((64, 64),))), read)
    np.testing.assert_array_equal(
        found.variables["params"]["class_predictor"]["bias"], small["params"]["class_predictor"]["bias"] + 1
    )
    code, _, err = shell(convert._main, *arguments, f"--workdir={tmp_path / 'w'}", "--key=teacher")
    assert code == 1
    assert "has no dict below the key 'teacher'; its dicts are state_dict, ema_state_dict" in err


def without_dcn_bias(variables):
    spatial = variables["params"]["dyhead"]["block_0"]["spatial"]
    spatial = {name: value for name, value in spatial.items() if name not in ("low_bias", "mid_bias", "high_bias")}
    block = variables["params"]["dyhead"]["block_0"] | {"spatial": spatial}
    return variables | {"params": variables["params"] | {"dyhead": {"block_0": block}}}


class Runs:
    """A pickle that runs something when it is loaded by others."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return exec, (f"open({str(self.target)!r}, 'w').close()",)


def broken_files(state, target):
    whole = pickle.dumps({"model": state}, protocol=2)
    first = next(iter(state))
    return {
        "corrupt.pth": (b"PK\x03\x04" + whole, "broken or no PyTorch checkpoint"),
        "truncated.pkl": (whole[: len(whole) // 2], "broken or no PyTorch checkpoint"),
        "hostile.pth": (pickle.dumps({"model": state, "x": Runs(target)}, protocol=2), "refused: it uses"),
        "text.pth": (b"weights", "no PyTorch checkpoint"),
        "nothing.safetensors": (b"", "broken or no safetensors file"),
        "huge.safetensors": (b"\xff" * 64, "broken or no safetensors file"),
        "pickled.npz": (pickle.dumps({"x": Runs(target)}, protocol=2), "broken or no .npz"),
        "shape.pkl": (
            pickle.dumps({"model": state | {first: state[first][:1]}}, protocol=2),
            f"{first} of the checkpoint gives shape",
        ),
        "lacking.pkl": (
            pickle.dumps({"model": {k: v for k, v in state.items() if k != "head.bbox_pred.bias"}}, protocol=2),
            "the checkpoint has nothing for params/box_predictor/bias of the model",
        ),
        "more.pkl": (
            pickle.dumps({"model": state | {"head.mask.weight": np.zeros(2)}}, protocol=2),
            "the model has no place for head.mask.weight of the checkpoint",
        ),
        "foreign.pkl": (pickle.dumps({"encoder.weight": np.zeros(2)}, protocol=2), "fit no layout"),
    }


def contents(place: Path) -> dict:
    return {path: path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}


def test_bad_files_give_one_line_and_write_nothing(small, small_file, shell, tmp_path):
    pytest.importorskip("safetensors")
    target = tmp_path / "ran"
    state = state_dict.save(layouts.detector(SMALL, "official"), small)
    for name, (data, message) in broken_files(state, target).items():
        path = tmp_path / name
        path.write_bytes(data)
        before = contents(tmp_path)
        code, out, err = shell(convert._main, path, f"--config={small_file}", f"--workdir={tmp_path / 'w'}")
        assert (code, out, err.count("\n")) == (1, "", 1), name
        assert err.startswith(f"error: {path}")
        assert message in err, name
        assert contents(tmp_path) == before
        assert not (tmp_path / "w").exists()
    assert not target.exists()


def test_a_hint_where_the_lineages_differ(small, tmp_path, small_file, shell):
    path = tmp_path / "official.pkl"
    path.write_bytes(pickle.dumps(state_dict.save(layouts.detector(SMALL, "official"), small), protocol=2))
    arguments = [path, f"--config={small_file}", f"--workdir={tmp_path / 'w'}"]
    code, _, err = shell(convert._main, *arguments, "--config.model.dyhead.dcn_bias=False")
    assert code == 1
    assert "--config.model.dyhead.dcn_bias=True" in err


def test_a_folder_in_use_stays_as_it_is(small_file, shell, tmp_path):
    work = tmp_path / "w"
    work.mkdir()
    (work / "metrics.jsonl").write_text("{}")
    code, out, err = shell(convert._main, tmp_path / "absent.pth", f"--config={small_file}", f"--workdir={work}")
    assert (code, out) == (1, "")
    assert err == f"error: {work} has metrics.jsonl already; it is not written over: choose another --workdir\n"
    assert [path.name for path in work.iterdir()] == ["metrics.jsonl"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--workdir=w",),
        ("x.pth", "--workdir=w"),
        ("x.pth", "--config=c.py"),
        ("x.pth", "--config=c.py", "--workdir=w", "--layout=caffe"),
        ("x.pth", "--config=c.py", "--workdir=w", "--verbose"),
        ("x.pth", "--config=c.py", "--workdir=w", "--out=y.npz"),
        ("--to-torch", "--workdir=w", "--layout=mmdet"),
        ("--to-torch", "--workdir=w", "--layout=resnet", "--out=y.npz"),
        ("x.pth", "--to-torch", "--workdir=w", "--layout=mmdet", "--out=y.npz"),
    ],
)
def test_wrong_usage(arguments, shell, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = shell(convert._main, *arguments)
    assert code == 2
    assert "Traceback" not in err
    assert not list(tmp_path.iterdir())


def test_layouts_without_names_say_so():
    fcos = dataclasses.replace(SMALL, head=config.FCOSConfig())
    with pytest.raises(layouts.LayoutError, match="layout 'official' has no names for a FCOS"):
        layouts.detector(fcos, "official")
    with pytest.raises(layouts.LayoutError, match="'swin-timm' has names for a backbone only"):
        layouts.detector(SMALL, "swin-timm")


def test_anchors_of_detectron2_are_put_in_our_order():
    """Heights and widths of a cell's anchors, by detectron2's loops and by our grid, meet through the table's order."""
    octaves, ratios = 3, (0.5, 1.0, 2.0)
    theirs = []
    for octave in range(octaves):
        for ratio in ratios:
            width = np.sqrt((32 * 2 ** (octave / 3)) ** 2 / ratio)
            theirs.append((ratio * width, width))
    scales = tuple(4 * 2 ** (octave / 3) for octave in range(octaves))
    (ours,) = anchors.anchors([(1, 1)], (8,), scales, ratios)
    sizes = np.stack([ours[:, 3] - ours[:, 1], ours[:, 2] - ours[:, 0]], axis=1)
    rule = next(r for r in names.retinanet_detectron2(4, octaves, len(ratios)).rules if r.source == "cls_score.weight")
    np.testing.assert_allclose(sizes, np.array(theirs)[list(rule.order)], rtol=1e-5)
    kernel = np.arange(9 * 5 * 2, dtype=np.float32).reshape(9 * 5, 2, 1, 1)  # five classes
    table = names.Table((rule,))
    got = names.load(table, {"cls_score.weight": kernel})
    np.testing.assert_array_equal(
        got["params"]["class_predictor"]["kernel"][0, 0].T.reshape(9, 5, 2), kernel.reshape(9, 5, 2)[list(rule.order)]
    )
    np.testing.assert_array_equal(names.save(table, got)["cls_score.weight"], kernel)


# what a checkpoint tells of itself

BGR = "img_norm_cfg = dict(\n    mean=[103.53, 116.28, 123.675], std=[1.0, 1.0, 1.0], to_rgb=False)\n"
RGB = "bgr_to_rgb=True,\n mean=[\n 123.675, 116.28, 103.53,\n ],\n std=[58.395, 57.12, 57.375]"


def test_pixels_are_told_where_the_file_knows():
    caffe = provenance.Pixels(provenance.MEAN, (1.0, 1.0, 1.0), True)
    imagenet = provenance.Pixels(provenance.MEAN, provenance.STD, False)
    assert provenance.configured(SMALL) == imagenet
    told = lambda arrays, meta, layout="mmdet": provenance.pixels(arrays, meta, layout, SMALL)[0]  # noqa: E731
    assert told({}, {"config": BGR}) == caffe
    assert told({}, {"cfg": RGB}) == imagenet
    assert told({}, {"cfg": RGB + BGR}) is None  # two opinions
    assert told({}, {}) is None
    assert told({}, {}, "resnet-caffe2") == caffe
    buffers = {"pixel_mean": np.array(provenance.MEAN[::-1]).reshape(3, 1, 1), "pixel_std": np.ones((3, 1, 1))}
    found = told(buffers, {}, "official")
    assert found is not None
    assert provenance.same(found, caffe)
    assert not provenance.same(caffe, imagenet)
    assert caffe.options() == (
        "--config.model.bgr=True --config.model.pixel_mean=123.675,116.28,103.53 --config.model.pixel_std=1,1,1"
    )


def test_the_options_of_a_warning_are_options(small, small_file, shell, tmp_path):
    state = state_dict.save(layouts.detector(SMALL, "official"), small)
    state |= {"pixel_mean": np.array([103.53, 116.28, 123.675], np.float32), "pixel_std": np.ones(3, np.float32)}
    path = torch_writer.save(tmp_path / "old.pth", state, "model")
    code, out, _ = shell(convert._main, path, f"--config={small_file}", f"--workdir={tmp_path / 'a'}")
    (warning,) = (line for line in out.splitlines() if "warning:" in line)
    options = warning.partition("give ")[2].split()
    code, out, err = shell(convert._main, path, f"--config={small_file}", *options, f"--workdir={tmp_path / 'b'}")
    assert (code, err) == (0, "")
    assert "warning:" not in out
    assert checkpoint.load_for_inference(tmp_path / "b").config.model.bgr


def test_categories():
    of = provenance.categories
    assert of(None, 80, None)[1][-1] == 90
    assert of(coco_categories.NAMES, 80, None)[:2] == (coco_categories.NAMES, coco_categories.IDS)
    assert of(("a", "b"), 2, None)[:2] == (("a", "b"), (1, 2))
    assert of(("a", "b"), 2, [("b", 3), ("a", 7)])[:2] == (("a", "b"), (7, 3))
    assert "warning" in of(("a", "b"), 2, [("b", 3), ("a", 7)])[2]
    assert of(None, 2, [("b", 3), ("a", 7)])[:2] == (("b", "a"), (3, 7))
    assert of(("x",), 2, None)[0] == ("class 1", "class 2")
    with pytest.raises(ValueError, match="has 1 categories"):
        of(None, 2, [("a", 1)])
    with pytest.raises(ValueError, match="no 'c'"):
        of(("a", "c"), 2, [("a", 1), ("b", 2)])


def test_training_starts_from_the_converted_weights(tmp_path, monkeypatch, capsys):
    """One step at a learning rate of zero ends where the file began."""
    train = pytest.importorskip("train", reason="train.py is beside the package in a checkout only")
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # the handler of SIGTERM stays pytest's
    rng = np.random.default_rng(1)
    variables = jax.tree.map(lambda leaf: rng.uniform(0, 0.1, leaf.shape).astype(np.float32), shapes_of(SMALLER))
    state = state_dict.save(layouts.detector(SMALLER, "official"), variables)
    settings = Config(
        model=SMALLER,
        data=DataConfig(
            source=config.ShapesConfig(train_images=4, val_images=2, size=64),
            canvases=((64, 64),),
            short_side=(64,),
            long_side=64,
            batch_size=2,
            eval_batch_size=2,
        ),
        optim=config.OptimConfig(warmup_steps=1, warmup_start=0.0),
        run=config.RunConfig(steps=1, parallel="single", figure_images=0, compilation_cache="off"),
    )
    found = convert.convert(settings, state)
    convert.write_workdir(tmp_path / "w", settings, found.variables, tuple("abcdef"), tuple(range(1, 7)))
    train.train(settings, tmp_path / "w")
    out = capsys.readouterr().out
    assert "going on from step 0" in out
    assert out.splitlines()[-1].startswith("AP ")
    got = checkpoint.load_for_inference(tmp_path / "w")
    assert got.step == 1
    jax.tree.map(np.testing.assert_array_equal, got.variables, variables)
