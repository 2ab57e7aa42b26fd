"""The installed wheel, without the repository: configs by name, training, the user's own modules."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tests import wheels

MINE = """
from flax import linen as nn


class Half(nn.Module):
    factor: float = 0.5

    def __call__(self, x):
        return x * self.factor
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """A folder with the wheel's content, as pip lays it out."""
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheels.build(wheels.ROOT, folder)) as file:
        file.extractall(folder / "site")
    return folder / "site"


def python(site, folder, *arguments):
    environment = os.environ | {"PYTHONPATH": str(site)}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.long
def test_training_outside_of_the_repository(site, tmp_path):
    (tmp_path / "mine.py").write_text(MINE)
    where = python(site, tmp_path, "-c", "import dyhead_jax; print(dyhead_jax.__file__)")
    assert Path(where.stdout.strip()) == site / "dyhead_jax" / "__init__.py"
    listed = python(site, tmp_path, "-m", "dyhead_jax.train", "--config=shapes_grid:fcos", "--help")
    assert "--config.model.head=dyhead_jax.detectors.fcos:FCOS" in listed.stdout, listed.stderr
    options = [
        "--config=demo_shapes", "--workdir=run", "--config.model.dyhead.task=mine:Half", "--config.run.steps=1",
        "--config.model.dyhead.task.factor=0.25", "--config.data.source.train_images=8", "--config.model.pretrained=",
        "--config.data.source.val_images=2", "--config.data.batch_size=2", "--config.data.source.size=64",
        "--config.data.canvases=((64,64),)", "--config.data.short_side=(64,)", "--config.run.parallel=single",
        "--config.model.backbone=dyhead_jax.backbones.resnet:ResNet", "--config.model.backbone.depth=18",
        "--config.model.backbone.width=4", "--config.model.neck.features=8", "--config.model.dyhead.features=8",
        "--config.model.dyhead.norm_groups=4", "--config.model.dyhead.num_blocks=1",
        f"--config.run.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
    ]  # fmt: skip
    trained = python(site, tmp_path, "-m", "dyhead_jax.train", *options)
    assert trained.returncode == 0, trained.stderr
    assert trained.stdout.splitlines()[-1].startswith("AP ")
    evaluated = python(site, tmp_path, "-m", "dyhead_jax.evaluate", "--workdir", "run", "--trust", "mine")
    assert evaluated.stdout.splitlines()[-1] == trained.stdout.splitlines()[-1], evaluated.stderr
    unknown = python(site, tmp_path, "-m", "dyhead_jax.train", "--config=demo_shape", "--workdir=run")
    assert unknown.stderr == (
        "error: --config=demo_shape: no such file, nor a config of this project; did you mean demo_shapes?\n"
    )
