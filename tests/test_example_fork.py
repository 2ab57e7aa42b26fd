"""The package in examples/fork, as a stranger has it: wheels in a new environment, and every command of its script."""

import os
import shutil
import subprocess

import pytest

from tests import wheels

FORK = wheels.ROOT / "examples" / "fork"
TINY = [
    "--config.model.pretrained=", "--config.model.backbone=dyhead_jax.backbones.resnet:ResNet",
    "--config.model.backbone.depth=18", "--config.model.backbone.width=4", "--config.model.neck.features=8",
    "--config.model.neck.levels=3", "--config.model.dyhead.features=8", "--config.model.dyhead.norm_groups=4",
    "--config.model.dyhead.num_blocks=1", "--config.data.source.train_images=8", "--config.data.source.val_images=2",
    "--config.data.source.size=64", "--config.data.canvases=((64,64),)", "--config.data.short_side=(64,)",
    "--config.data.long_side=64", "--config.data.batch_size=2", "--config.data.eval_batch_size=2",
    "--config.run.steps=2", "--config.run.figure_images=0", "--config.run.parallel=single",
    f"--config.run.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
]  # fmt: skip


@pytest.mark.long
def test_a_stranger_builds_it_and_tries_everything(tmp_path):
    pytest.importorskip("safetensors", reason="needs the extra `safetensors`")
    pytest.importorskip("flatbuffers", reason="needs the extra `stablehlo`")
    python = wheels.environment(tmp_path / "env", wheels.build(wheels.ROOT, tmp_path), wheels.build(FORK, tmp_path))
    beside = tmp_path / "fork"  # without the package, which is then the installed one
    shutil.copytree(FORK, beside, ignore=shutil.ignore_patterns("strip_head"))
    environment = os.environ | {"PYTHON": str(python), "SIZE": "64x64", "SEEDS": "1", "PYTHONPATH": ""}
    environment["CONTRACT"] = "--only fields --only shapes --only levels --only gradients --only batch"
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"
    out = tmp_path / "out"
    done = subprocess.run(
        ["sh", "try.sh", str(out), *TINY],
        cwd=beside,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    log = (out / "compare" / "strips" / "seed0.log").read_text()
    assert "optim.offset_rate 0.05 is for 126 parameters" in log  # the places of the strips: 14 of 8 channels
    assert (out / "compare" / "table.md").is_file()
    assert (out / "strips" / "model.safetensors").is_file()
    assert (out / "strips_hlo" / "export.json").is_file()


def test_its_attentions_stay_short():
    """A spatial attention of at most 60 lines, as the README of the fork shows what an idea takes."""
    text = (FORK / "strip_head" / "strips.py").read_text()
    assert len(text[text.index("class ") :].splitlines()) <= 60
