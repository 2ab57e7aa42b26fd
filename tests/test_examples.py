"""The notebook runs from top to bottom, with a few steps, few and small pictures and a small model."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SMALL = (
    r"\1.data.source.train_images, \1.data.source.val_images = 32, 8; "
    r"\1.data.canvases, \1.data.short_side, \1.data.long_side = ((64, 64),), (64,), 64; "
    r"\1.data.batch_size, \1.data.eval_batch_size = 2, 4; "
    r"\1.model.dyhead.num_blocks = 1; \1.model.neck.features = \1.model.dyhead.features = 16; "
    r"\1.model.pretrained, \1.model.backbone = '', 'dyhead_jax.backbones.resnet:ResNet'; "
    r"\1.model.backbone.depth, \1.model.backbone.width = 18, 4"
)
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text, runs = re.subn(r"^(\w+)\.run\.eval_every = 0$", rf"\g<0>; {SMALL}", text, flags=re.MULTILINE)
    assert runs == 2
    (tmp_path / "cells.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STEPS": "2"}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 900}
    done = subprocess.run([sys.executable, "cells.py"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("boxes, the same")
    taken, all_of_it = re.findall(r"^start from runs/notebook: (\d+) of (\d+) arrays", done.stdout, re.MULTILINE)[0]
    assert int(all_of_it) - int(taken) == 4  # those of the new attention: two Dense layers


def test_there_is_one():
    assert NOTEBOOKS
