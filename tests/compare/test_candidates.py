"""What a person types for the configs of a comparison."""

import pytest

from dyhead_jax.command import UsageError
from dyhead_jax.compare import candidates
from dyhead_jax.config import ConfigError

CONFIG = '''"""Drawn shapes."""

from dyhead_jax.config import Config, ShapesConfig


def get_config(text: str = ""):
    config = Config()
    config.data.source = ShapesConfig()
    config.run.steps = 10
    if text == "coco":
        config.data.source = Config().data.source
    return config
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(CONFIG)
    return str(path)


def read(tmp_path, *texts, common=()):
    return candidates.read(texts, common, tmp_path / "runs", 4)


def test_names_and_options(file, tmp_path):
    plain, text, own, named, late = read(
        tmp_path,
        file,
        f"{file}:coco",
        f"{file} --config.model.dyhead.task=none --noconfig.optim.decay_norms --config.optim.learning_rate 0.5",
        f"best.one={file} --config.optim.learning_rate=0.25",
        f"{file}  --config.run.log_every=7",
        common=["--config.run.steps=9", "--config.optim.learning_rate=1"],
    )
    names = ["mine", "mine:coco", "mine task=none no decay_norms learning_rate=0.5", "best.one", "mine log_every=7"]
    assert [one.name for one in (plain, text, own, named, late)] == names
    assert [one.config.optim.learning_rate for one in (plain, text, own, named)] == [1.0, 1.0, 0.5, 0.25]
    assert own.config.model.dyhead.task.module == "none"
    assert not own.config.optim.decay_norms
    assert text.file == f"{file}:coco"
    assert text.folder == "mine_coco"
    assert {one.config.run.steps for one in (plain, text, own, named, late)} == {9}
    assert plain.seeded(3).seed == 3
    assert plain.config.seed == 0
    arguments = named.arguments(3)
    assert arguments[:3] == [f"--config={file}", "--config.run.steps=9", "--config.optim.learning_rate=1"]
    assert arguments[3] == "--config.optim.learning_rate=0.25"
    assert arguments[-1] == "--config.seed=3"


def test_groups(file, tmp_path):
    found = read(tmp_path, f"a={file}", f"b={file}", "/", f"c={file}", "/", f"d={file}", f"e={file}")
    assert [(one.name, one.baseline) for one in found] == [
        ("a", "a"), ("b", "a"), ("c", "c"), ("d", "d"), ("e", "d")
    ]  # fmt: skip


def test_runs_share_pictures_and_programs_and_are_evaluated(file, tmp_path):
    shapes, coco = read(tmp_path, file, f"{file}:coco")
    for one in (shapes, coco):
        assert one.config.run.compilation_cache == str(tmp_path / "runs" / "cache")
        assert one.config.run.eval_every == 3  # 3, 6, 9 and 10
    assert shapes.config.data.source.root == str(tmp_path / "runs" / "data")
    assert coco.config.data.source.root == ""
    given = ["--config.run.eval_every=5", "--config.run.compilation_cache=off", "--config.data.root=/pictures"]
    [one] = read(tmp_path, file, common=given)
    assert (one.config.run.eval_every, one.config.run.compilation_cache) == (5, "off")
    assert one.config.data.source.root == ""
    assert one.overrides == tuple(given)


@pytest.mark.parametrize(
    ("texts", "error", "message"),
    [
        (["{}", "{}"], UsageError, "have the same name, mine; give one by NAME=CONFIG"),
        (["a+b={}", "{} --config.seed=3"], UsageError, "--config.seed=3: --seeds gives the seeds"),
        (["{} --workdir=x"], UsageError, "'--workdir=x' is not of the form CONFIG --config.NAME=VALUE"),
        (["{} --config.run.steps='1"], UsageError, "No closing quotation"),
        (["--config.run.steps=1"], UsageError, "is not of the form"),
        (["{} --config.run.step=1"], UsageError, "{} --config.run.step=1: --config.run.step: RunConfig has no field"),
        (["{} --config.run.steps=0"], ConfigError, "{} --config.run.steps=0: config.run.steps is 0"),
        (["a={}", "absent.py"], ConfigError, "absent.py: --config=absent.py: no such file"),
        (["{}:" + "x" * 100], UsageError, "cannot be that of a folder"),
        (["a_b={}", "mine:a={}"], ConfigError, "no such file"),
        (["a={}", "/"], UsageError, "/ stands between two groups of configs"),
        (["/", "a={}"], UsageError, "/ stands between two groups of configs"),
        (["a={}", "/", "/", "b={}"], UsageError, "/ stands between two groups of configs"),
        (["a={}", "/", "a={}"], UsageError, "have the same name, a"),
    ],
)
def test_what_is_wrong_is_named(texts, error, message, file, tmp_path):
    with pytest.raises(error) as raised:
        read(tmp_path, *(text.format(file) for text in texts))
    assert message.format(file) in str(raised.value)


def test_two_names_that_become_one_folder_are_refused(tmp_path):
    for name in ("a b.py", "a_b.py"):
        (tmp_path / name).write_text(CONFIG)
    with pytest.raises(UsageError, match="have the same folder, a_b"):
        read(tmp_path, str(tmp_path / "a b.py"), str(tmp_path / "a_b.py"))
