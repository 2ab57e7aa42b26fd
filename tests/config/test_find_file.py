"""A config is named by its path, or by the name alone if it is one of this project's."""

from pathlib import Path

import pytest

from dyhead_jax.config import ConfigError, flags

ROOT = Path(__file__).resolve().parents[2]


def test_names_and_paths(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert flags.find_file("demo_shapes") == ROOT / "configs" / "demo_shapes.py"
    own = tmp_path / "demo_shapes.py"
    own.write_text("")
    assert flags.find_file("demo_shapes.py") == Path("demo_shapes.py")  # a file is meant where there is one
    assert flags.find_file(str(own)) == own


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("demo_shape", "--config=demo_shape: no such file, nor a config of this project; did you mean demo_shapes?"),
        ("xyz", "--config=xyz: no such file, nor a config of this project; there are ablation, atss_r101_2x,"),
        ("demo_shapes.py", "--config=demo_shapes.py: no such file"),
        ("other/demo_shapes", "--config=other/demo_shapes: no such file"),
    ],
)
def test_others_are_named(name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError) as error:
        flags.find_file(name)
    assert str(error.value).startswith(message)
