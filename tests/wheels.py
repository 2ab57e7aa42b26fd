"""Wheels of this package and of the example beside it, and environments that have them."""

import subprocess
import sys
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def build(project: Path, folder: Path) -> Path:
    """The wheel of the project, built into `folder` as pip does it for anybody."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(project)]
    before = set(folder.glob("*.whl"))
    subprocess.run(command, check=True, timeout=300)
    (wheel,) = set(folder.glob("*.whl")) - before
    return wheel


def environment(folder: Path, *installed: Path) -> Path:
    """The interpreter of a new virtual environment with these wheels.

    Everything else comes from the environment of this process, without what is installed there in editable form.
    """
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True, timeout=300)
    python = folder / "bin" / "python"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps", "--no-index"]
    subprocess.run([*install, *map(str, installed)], check=True, timeout=300)
    where = [str(python), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]
    site = subprocess.run(where, check=True, capture_output=True, text=True).stdout.strip()
    Path(site, "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python
