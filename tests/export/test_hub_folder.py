"""A model through a folder of plain files predicts the same to the bit; what is broken or hostile there is named."""

import json
import re
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import dyhead_jax
from dyhead_jax.evaluation.exported_folder import CONFIG, WEIGHTS
from dyhead_jax.evaluation.trained_model import load_for_inference
from tests.export.command import run
from tests.inference import tiny_run


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_run.write_workdir(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("secret"))


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("out") / "model"
    code, out, err = run("--workdir", workdir, "--format", "safetensors", "--out", folder)
    assert (code, err) == (0, "")
    assert len(out.splitlines()) == 4
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "copy")


def test_predictions_are_the_same_to_the_bit(workdir, exported):
    images = [tiny_run.noise(40, 60), tiny_run.noise(30, 45, seed=1)]  # of one canvas
    expected = dyhead_jax.load(workdir)(images, score=0)
    model = dyhead_jax.load(exported)
    assert (model.class_names, model.category_ids, model.step) == (("a", "b"), (3, 7), 0)
    for a, b in zip(model(images, score=0), expected, strict=True):
        assert len(a) > 3
        for field in ("boxes", "scores", "labels"):
            np.testing.assert_array_equal(getattr(a, field), getattr(b, field))


def test_folder_file_and_text_name_the_same_model(exported):
    first, *others = (load_for_inference(source) for source in (exported, exported / WEIGHTS, str(exported)))
    for other in others:
        assert (other.config, other.class_names) == (first.config, first.class_names)
        jax.tree.map(np.testing.assert_array_equal, other.variables, first.variables)


def test_the_files_are_those_of_the_hub(exported, workdir):
    assert {path.name for path in exported.iterdir()} == {CONFIG, WEIGHTS, "preprocessor_config.json", "README.md"}
    arrays = load_file(exported / WEIGHTS)
    assert {"params/class_predictor/kernel", "batch_stats/backbone/bn1/mean"} <= set(arrays)
    content = json.loads((exported / CONFIG).read_text())
    assert content["id2label"] == {"0": "a", "1": "b"}
    assert content["architectures"] == ["ATSS"]
    assert json.loads((exported / "preprocessor_config.json").read_text())["size"] == {
        "shortest_edge": 32,
        "longest_edge": 48,
    }
    card = (exported / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: dyhead_jax\n")
    assert "2 kinds of objects: a, b." in card
    root = load_for_inference(workdir).config.data.source.root
    assert root
    assert all(root.encode() not in path.read_bytes() for path in exported.iterdir())  # nobody's folders


@pytest.mark.long
def test_check_compares_and_an_exported_folder_is_exported_again(exported, tmp_path):
    picture = tmp_path / "a.png"
    tiny_run.Image.fromarray(tiny_run.noise(50, 60)).save(picture)
    arguments = ("--model", exported, "--format", "safetensors", "--out", tmp_path / "again", "--check", picture)
    code, out, err = run(*arguments)
    assert (code, err) == (0, "")
    found = re.search(r"1 pictures, (\d+) boxes: largest difference 0 pixels, 0 of score; 0 boxes of only one\n", out)
    assert found is not None
    assert int(found[1]) > 3
    assert (tmp_path / "again" / CONFIG).read_bytes() == (exported / CONFIG).read_bytes()
    assert (tmp_path / "again" / WEIGHTS).read_bytes() == (exported / WEIGHTS).read_bytes()


def test_opening_one_imports_neither_orbax_nor_grain(exported):
    code = (
        f"import sys, dyhead_jax; model = dyhead_jax.load({str(exported)!r});"
        " print([name for name in ('orbax', 'grain', 'tensorflow_datasets') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def with_arrays(folder, change):
    arrays = load_file(folder / WEIGHTS)
    change(arrays)
    save_file(arrays, folder / WEIGHTS)


NAME = "params/class_predictor/bias"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda arrays: arrays.pop(NAME), f"model.safetensors lacks {NAME}"),
        (lambda arrays: arrays.update(other=np.zeros(1)), "model.safetensors has unknown other"),
        (lambda arrays: arrays.update({NAME: np.zeros(3, np.float32)}), rf"{NAME} is \(3,\) float32, but .* \(2,\)"),
        (lambda arrays: arrays.update({NAME: np.zeros(2, np.int32)}), rf"{NAME} is \(2,\) int32, but"),
        (lambda arrays: arrays.update({NAME: np.full(2, np.nan, np.float32)}), f"{NAME} has a NaN"),
    ],
)
def test_arrays_that_do_not_fit_are_named(change, message, copy):
    with_arrays(copy, change)
    with pytest.raises(ValueError, match=message):
        dyhead_jax.load(copy)


def with_config(folder, change):
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    (folder / CONFIG).write_text(json.dumps(content))


def hostile(module, **options):
    return lambda c: c["dyhead_jax"]["model"].update(backbone={"module": module, **options})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.pop("id2label"), "config.json: id2label is 'None'"),
        (lambda c: c["id2label"].pop("1"), "1 labels in id2label and 2 category_ids"),
        (lambda c: c.update(model_type="resnet"), "is not of a model of dyhead_jax"),
        (lambda c: c.update(dyhead_jax_format=9), "dyhead_jax_format 9; known is 1"),
        (lambda c: c["dyhead_jax"]["model"].update(mean=1), "ModelConfig has no field mean"),
        (
            lambda c: c["dyhead_jax"]["model"].update(pixel_std=[1, 2]),
            r"config\.json: config\.model\.pixel_std is \(1, 2\)",
        ),
        (lambda c: c["dyhead_jax"]["data"].update(canvases=[]), r"config\.json: config\.data\.canvases is \(\)"),
        (
            lambda c: c["dyhead_jax"]["model"]["dyhead"].update(norm_groups=3),
            r"config\.json: its model cannot be built",
        ),
        (lambda c: c["dyhead_jax"]["model"]["dyhead"].update(num_blocks=10**9), "num_blocks is 1000000000; it must be"),
        (hostile("os:system", command="touch owned"), "names 'os:system', of the package 'os'"),
        (hostile("subprocess:run", args="touch owned", shell=True), "names 'subprocess:run'"),
        (hostile("dyhead_jax.files:write_atomic", path="owned"), "write_atomic', which is no part of a detector"),
        (hostile("dyhead_jax.files:shutil"), "which is no part of a detector"),
        (hostile("dyhead_jax.training.checkpoint:Checkpoints", folder="owned"), "which is no part of a detector"),
        (hostile("tests.detectors.tiny:Backbone"), "of the package 'tests'; if you know it, --trust tests allows it"),
        (lambda c: c["dyhead_jax"]["model"].update({"class": "os:PathLike"}), "names 'os:PathLike'"),
        (lambda c: c["dyhead_jax"]["model"]["dyhead"].update(task="shutil:rmtree"), "names 'shutil:rmtree'"),
    ],
)
def test_a_config_that_does_not_fit_or_is_hostile_is_named(change, message, copy, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with_config(copy, change)
    with pytest.raises(ValueError, match=message) as error:
        dyhead_jax.load(copy)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "owned").exists()


def test_trusted_packages_may_be_named(copy):
    with_config(copy, hostile("tests.detectors.tiny:Backbone"))
    with pytest.raises(ValueError, match=r"model.safetensors (lacks|has unknown) "):  # another backbone: other arrays
        dyhead_jax.load(copy, trust=["tests"])


def test_broken_files_are_named(copy):
    (copy / WEIGHTS).write_bytes(b"no safetensors")
    with pytest.raises(ValueError, match=r"model\.safetensors is broken or no safetensors file"):
        dyhead_jax.load(copy)
    (copy / CONFIG).write_text("{")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        dyhead_jax.load(copy)
    (copy / CONFIG).unlink()
    with pytest.raises(ValueError, match=r"config\.json: no such file"):
        dyhead_jax.load(copy)


def test_an_exported_folder_has_no_steps(exported):
    with pytest.raises(ValueError, match="is an exported model without steps; leave out step 3"):
        dyhead_jax.load(exported, 3)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--out", "full"], 1, "--out full: exists; give a new folder"),
        (["--out", "absent/out"], 1, "--out absent/out: the folder"),
        (["--out", "out", "--raw"], 2, "--raw needs --format onnx"),
        (["--out", "out", "--check", "absent.png"], 1, "absent.png: No such file"),
        (["--out", "out", "--check", "full"], 1, "full: no image in this folder"),
    ],
)
def test_wrong_arguments_are_one_line_and_write_nothing(arguments, code, message, exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    ended, out, err = run("--workdir", exported, "--format", "safetensors", *arguments)
    assert (ended, out) == (code, "")
    assert err.startswith(f"error: {message}")
    assert err.count("\n") == 1
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["notes.txt"]
