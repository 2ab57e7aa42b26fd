"""The notebook runs from top to bottom, with a few steps and pictures."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FEW = r"\1.data.source.train_images, \1.data.source.val_images = 32, 8"
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))


@pytest.mark.long
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path):
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    text = "\n\n".join("".join(cell["source"]) for cell in cells)
    text, runs = re.subn(r"^(\w+)\.run\.eval_every = 0$", rf"\g<0>; {FEW}", text, flags=re.MULTILINE)
    assert runs == 2
    (tmp_path / "cells.py").write_text(text)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "STEPS": "2"}
    environment["XLA_FLAGS"] += " --xla_force_host_platform_device_count=1"
    options = {"cwd": tmp_path, "env": environment, "capture_output": True, "text": True, "timeout": 900}
    done = subprocess.run([sys.executable, "cells.py"], check=False, **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].endswith("boxes, the same")


def test_there_is_one():
    assert NOTEBOOKS
