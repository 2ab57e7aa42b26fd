"""A stored config names what to import: outside of this package only where the caller named the package."""

import sys
from pathlib import Path

import pytest

from dyhead_jax import command
from dyhead_jax import config as configs
from dyhead_jax.config import Config, ConfigError
from dyhead_jax.training import workdir

STRANGER = """
from pathlib import Path
from flax import linen as nn

Path(__file__).with_name("ran").touch()


class Task(nn.Module):
    def __call__(self, x):
        return x
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A workdir of a stranger with a module beside its config.json, which is also the current folder."""
    (tmp_path / "stranger.py").write_text(STRANGER)
    text = configs.to_json(Config()).replace("dyhead_jax.dyhead.task:TaskAttention", "stranger:Task")
    (tmp_path / "config.json").write_text(text.replace('"reduction": 4', "").replace('Task",', 'Task"'))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("stranger", None)


def test_a_module_beside_the_config_is_not_imported(folder):
    with pytest.raises(ConfigError) as error:
        configs.load_file(folder / "config.json")
    assert str(error.value) == (
        f"{folder}/config.json names 'stranger:Task', of the package 'stranger'; if you know it, --trust stranger"
        " allows it (trust=[...] in Python)"
    )
    (folder / "checkpoints" / "4").mkdir(parents=True)
    with pytest.raises(ConfigError, match="of the package 'stranger'"):  # the command names no such package
        workdir.check(folder, Config())
    assert not (folder / "ran").exists()
    assert "stranger" not in sys.modules


def test_it_is_where_the_package_is_named(folder):
    config = configs.load_file(folder / "config.json", trust=["stranger"])
    assert config.model.dyhead.task == "stranger:Task"
    assert (folder / "ran").exists()
    assert configs.packages(config) == ("stranger",)
    (folder / "checkpoints" / "4").mkdir(parents=True)
    assert workdir.check(folder, config) == config.run.steps  # the config of the command names it


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("dyhead_jax.dyhead.task:TaskAttention", "os:system", "names 'os:system', of the package 'os'"),
        ("dyhead_jax.dyhead.task:TaskAttention", "dyhead_jax_2:A", "of the package 'dyhead_jax_2'"),
        ("dyhead_jax.dyhead.task:TaskAttention", "dyhead_jax.files:shutil", "which is no part of a detector"),
        ("dyhead_jax.dyhead.task:TaskAttention", "dyhead_jax.training.checkpoint:Checkpoints", "no part of a detector"),
        ("dyhead_jax.backbones.resnet:ResNet", "subprocess:run", "of the package 'subprocess'"),
        ("dyhead_jax.config:FPNConfig", "pathlib:Path", "of the package 'pathlib'"),
        ("dyhead_jax.config:FPNConfig", "none", "is not of the form"),
        ("dyhead_jax.config:FPNConfig", "dyhead_jax.dyhead:DyHead", "'dyhead_jax.dyhead:DyHead' is not a config class"),
        ("dyhead_jax.data.coco_folder:CocoFolder", "shutil:rmtree", "of the package 'shutil'"),
    ],
)
def test_what_else_a_config_may_not_name(before, after, message):
    text = configs.to_json(Config())
    assert before in text
    with pytest.raises(ConfigError, match=rf"^run\.json:? .*{message}"):
        configs.from_json(text.replace(before, after), "run.json")


def test_every_command_that_opens_a_model_has_the_option(monkeypatch, capsys):
    import dyhead_jax.compare.__main__
    import dyhead_jax.convert
    import dyhead_jax.demo.__main__
    import dyhead_jax.evaluate
    import dyhead_jax.export.__main__
    import dyhead_jax.failure
    import dyhead_jax.look.__main__
    import dyhead_jax.predict
    import dyhead_jax.train

    mains = [dyhead_jax.train.main]
    rooms = (dyhead_jax.compare, dyhead_jax.demo, dyhead_jax.export, dyhead_jax.look)
    for module in (dyhead_jax.convert, dyhead_jax.evaluate, dyhead_jax.failure, dyhead_jax.predict):
        mains.append(module._main)
    mains += [room.__main__._main for room in rooms]
    monkeypatch.setattr(sys, "argv", ["command", "--help"])
    for main in mains:
        with pytest.raises(SystemExit) as ended:
            command.run(main)
        assert ended.value.code == 0
        assert "--trust PACKAGE" in capsys.readouterr().out, main.__module__
    assert Path(dyhead_jax.__file__).name == "__init__.py"
