"""Weights of other projects through the command line and back; broken and hostile files."""

import dataclasses
import json
import pickle
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command, config, convert, detectors, predict, train
from dyhead_jax.config import Config, DataConfig
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.training import steps
from dyhead_jax.weights import files, layouts, state_dict
from tests.converting import SMALL, SMALLER, config_file, shapes_of
from tests.parity import mmdet_model
from tests.parity.goldens import cases, folder
from tests.weights import torch_writer

D = {case.name[:3]: case for case in cases("D")}

needs_d01 = pytest.mark.skipif("D01" not in D, reason=f"no golden case D01 in {folder()}; set DYHEAD_GOLDENS")


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
@pytest.mark.parametrize("image", [0, pytest.param(1, marks=pytest.mark.long)])
@pytest.mark.long
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


@pytest.mark.long
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
        back = files.read(out).arrays
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
    one, two = (load_for_inference(tmp_path / name).variables for name in ("one", "two"))
    jax.tree.map(np.testing.assert_array_equal, one, two)


@pytest.fixture(scope="module")
def small():
    """Variables of SMALL, none of them a starting value."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: rng.uniform(0.1, 1.0, leaf.shape).astype(np.float32), shapes_of(SMALL))


@pytest.fixture
def small_file(tmp_path):
    return config_file(tmp_path / "small.py", SMALL, canvases=((64, 64),), short_side=(64,), long_side=64)


# small models without golden files


def test_official_names_there_and_back(small, tmp_path):
    table = layouts.detector(SMALL, "official")
    state = state_dict.save(table, small)
    assert state["head.scales.1.scale"].shape == (1,)
    found = convert.convert(Config(model=SMALL, data=DataConfig(canvases=((64, 64),))), state)
    assert (found.layout, found.part, found.match.left) == ("official", "", {})
    jax.tree.map(np.testing.assert_array_equal, found.variables, small)


@pytest.mark.long
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
    got = load_for_inference(work)
    assert got.step == 0
    assert got.class_names == tuple(f"class {i}" for i in range(1, 7))
    variables = got.variables["params"]
    jax.tree.map(np.testing.assert_array_equal, variables["backbone"], small["params"]["backbone"])
    model = detectors.build(SMALLER)
    fresh = steps.jit_once(
        lambda: steps.init_variables(model, jax.random.key(3), (64, 64))["params"]["class_predictor"]
    )()
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
    read = files.read(path, "ema_state_dict").arrays
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
        "hostile.pth": (
            pickle.dumps({"model": state | {"x": Runs(target)}}, protocol=2),
            "refused: 'x' among the weights is a __builtin__.exec",
        ),
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
    assert err == f"error: {work} already has metrics.jsonl, which is not overwritten; choose another --workdir\n"
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


@pytest.mark.long
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
    assert load_for_inference(tmp_path / "b").config.model.bgr


@pytest.mark.long
def test_training_starts_from_the_converted_weights(tmp_path, monkeypatch, capsys):
    """One step at a learning rate of zero ends where the file began."""
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
    train.train(settings, tmp_path / "w", by_number=True)  # the classes are called a to f
    out = capsys.readouterr().out
    assert "going on from step 0" in out
    assert out.splitlines()[-1].startswith("AP ")
    got = load_for_inference(tmp_path / "w")
    assert got.step == 1
    jax.tree.map(np.testing.assert_array_equal, got.variables, variables)


def test_a_workdir_that_is_a_file_is_named_before_anything_is_read(tmp_path):
    path = tmp_path / "file"
    path.write_text("")
    with pytest.raises(convert.ConvertError, match="is a file; it must be a folder"):
        convert.check_unused(path)
