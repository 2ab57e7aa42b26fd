"""StableHLO files give the model's boxes, in a process that knows only JAX, with any batch size, on every platform."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.export import stablehlo
from dyhead_jax.training.steps import make_detect
from tests.export.command import run
from tests.inference import tiny_run

ROOT = Path(__file__).resolve().parents[2]
CANVAS = (32, 48)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    return tiny_run.write_workdir(tmp_path_factory.mktemp("run"), tmp_path_factory.mktemp("data"))


def test_a_missing_package_is_named(workdir, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "flatbuffers", None)
    code, out, err = run("--workdir", workdir, "--format", "stablehlo", "--out", tmp_path / "out")
    assert (code, out) == (1, "")
    assert err == ("error: StableHLO files need a package that is not installed: pip install 'dyhead-jax[stablehlo]'\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.long
@pytest.mark.parametrize("platform", stablehlo.PLATFORMS)
def test_the_branch_of_each_platform_finds_the_same(platform, workdir):
    """All forms run on a CPU too."""
    loaded = load_for_inference(workdir)
    images = np.stack([tiny_run.noise(*CANVAS, seed=seed) for seed in range(2)])
    sizes = np.array([CANVAS, (20, 40)], np.int32)
    expected = jax.jit(make_detect(loaded.model))(loaded.variables, images, sizes)
    branch = stablehlo._traced_for(stablehlo.PLATFORMS[platform], loaded)
    found = jax.jit(branch)(images, sizes)
    for given, wanted in zip(found, (expected.boxes, expected.scores, expected.labels), strict=True):
        np.testing.assert_allclose(given, wanted, atol=1e-4)
    assert (np.asarray(expected.scores) > 0).sum() > 10


@pytest.fixture(scope="module")
def exported(workdir, tmp_path_factory):
    pytest.importorskip("flatbuffers", reason="needs the extra `stablehlo`")
    folder = tmp_path_factory.mktemp("out") / "mine_hlo"
    picture = folder.parent / "a.png"
    tiny_run.Image.fromarray(tiny_run.noise(50, 60)).save(picture)
    tiny_run.Image.fromarray(tiny_run.noise(60, 30)).save(folder.parent / "b.png")
    arguments = ("--check", picture, folder.parent / "b.png")
    code, out, err = run("--workdir", workdir, "--format", "stablehlo", "--out", folder, *arguments)
    assert (code, err) == (0, ""), out
    assert re.search(r"2 pictures, \d+ boxes: largest difference .* 0 boxes of only one", out)
    assert "milliseconds a picture" in out
    return folder


@pytest.mark.long
def test_the_files_run_with_jax_alone(exported, workdir, tmp_path):
    """The snippet of docs/export.md, in a process where this package is not to be found."""
    (snippet,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "export.md").read_text(), re.S)
    assert set(re.findall(r"^(?:import|from) (\w+)", snippet, re.M)) == {"json", "jax", "numpy"}
    picture = tiny_run.noise(30, 44)
    np.save(exported.parent / "picture.npy", picture)
    code = f"import sys; sys.modules['dyhead_jax'] = None\n{snippet}"
    done = subprocess.run(
        [sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True, cwd=exported.parent
    )
    loaded = load_for_inference(workdir)
    padded = np.zeros((1, *CANVAS, 3), np.uint8)
    padded[0, :30, :44] = picture
    expected = jax.jit(make_detect(loaded.model))(loaded.variables, padded, np.array([[30, 44]], np.int32))
    lines = [line for line in done.stdout.splitlines() if line]
    kept = np.asarray(expected.scores[0]) > 0.3
    assert len(lines) == kept.sum() > 0
    for line, box, label in zip(lines, np.asarray(expected.boxes[0]), np.asarray(expected.labels[0]), strict=False):
        name, _, corners = line.split(" ", 2)
        assert name == "ab"[label]
        np.testing.assert_allclose(json.loads(corners), box, atol=1e-3)


@pytest.mark.long
def test_any_batch_size_and_every_platform(exported, workdir):
    from jax import export

    program = export.deserialize(bytearray((exported / "model_32x48.stablehlo").read_bytes()))
    assert program.platforms == ("cpu", "cuda", "tpu")
    loaded = load_for_inference(workdir)
    for count in (1, 3):
        images = np.stack([tiny_run.noise(*CANVAS, seed=seed) for seed in range(count)])
        sizes = np.tile(np.array([CANVAS], np.int32), (count, 1))
        expected = jax.jit(make_detect(loaded.model))(loaded.variables, images, sizes)
        for given, wanted in zip(
            jax.jit(program.call)(images, sizes), (expected.boxes, expected.scores, expected.labels), strict=True
        ):
            np.testing.assert_allclose(given, wanted, atol=1e-4)


@pytest.mark.long
def test_it_says_how_to_use_it(exported):
    content = json.loads((exported / "export.json").read_text())
    assert content["class_names"] == ["a", "b"]
    assert content["category_ids"] == [3, 7]
    assert [c["file"] for c in content["canvases"]] == ["model_32x48.stablehlo", "model_48x32.stablehlo"]
    assert {path.name for path in exported.iterdir()} == {"export.json", *(c["file"] for c in content["canvases"])}
