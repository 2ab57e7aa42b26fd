"""The command line of train.py, and whole tiny runs of it: stopped, killed and finished."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from dyhead_jax import command, train
from dyhead_jax import config as configs
from dyhead_jax.config import flags
from dyhead_jax.data import box_counts
from dyhead_jax.evaluation import average_precision
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.training import workdir
from dyhead_jax.training.metrics import read_metrics
from tests.tiny_detector import leaves

ROOT = Path(__file__).resolve().parents[1]
STEPS = 8
CLOCK = ("train/images_per_second", "train/input_wait")

CONFIG = '''"""A run of seconds."""

from configs.demo_shapes import get_config as demo
from dyhead_jax.config import ResNetConfig


def get_config():
    config = demo()
    source, data, model, optim, run = config.data.source, config.data, config.model, config.optim, config.run
    source.train_images, source.val_images, source.size = 12, 6, 64
    data.canvases, data.short_side, data.long_side = ((64, 64),), (64,), 64
    data.batch_size, data.eval_batch_size = 4, 4
    model.pretrained, model.backbone = "", ResNetConfig(depth=18, width=4, norm="sync", frozen_stages=-1)
    model.neck.features, model.neck.levels = 16, 2
    model.dyhead.features, model.dyhead.num_blocks, model.dyhead.norm_groups = 16, 1, 4
    optim.warmup_steps, optim.ema, optim.schedule = 2, 0.9, "constant"
    run.steps, run.eval_every, run.checkpoint_every, run.log_every = 8, 6, 4, 1
    run.figure_images = 2
    return config
'''


@pytest.fixture(scope="module")
def config_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "tiny.py"
    path.write_text(CONFIG)
    return path


# The command line, in this process


def parse(*arguments):
    parsed = flags.parse(flags.parser("train.py", "Trains."), arguments)
    return parsed and (parsed[0], parsed[1].workdir)


def test_overrides_reach_the_config(config_file, tmp_path):
    parsed = parse(f"--config={config_file}", "--config.optim.learning_rate=0.5", f"--workdir={tmp_path}")
    assert parsed is not None
    config, folder = parsed
    assert config.optim.learning_rate == 0.5
    assert config.data.batch_size == 4
    assert folder == tmp_path


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--config.optim.learnin_rate=1", "OptimConfig has no field 'learnin_rate'; did you mean 'learning_rate'"),
        ("--config.optimm.learning_rate=1", "Config has no field 'optimm'; did you mean 'optim'"),
        ("--config.run.steps.x=1", "there is nothing below 'x'"),
        ("--noconfig.run.tensorbord", "did you mean 'tensorboard'"),
        ("--config.run.steps=many", "config.run.steps=many"),
        ("--wrkdir=x", "wrkdir"),
        ("--config.model.dyhead.task=", "--config.model.dyhead.task= is empty; give an import path"),
        ("more", "'more' is not an option"),
    ],
)
def test_wrong_arguments_are_named(argument, message, config_file):
    with pytest.raises(command.UsageError) as error:
        parse(f"--config={config_file}", "--workdir=x", argument)
    assert message in command.one_line(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("c.optim.learnin_rate = 1", "line 4: OptimConfig has no field 'learnin_rate'; did you mean 'learning_rate'?"),
        ("c.run.steps = 0", "config.run.steps is 0; it must be at least 1"),
        ("c.run.steps = 'x'", "config.run.steps is 'x'; it must be a whole number"),
        ("c.optim.name = 'adam'", "config.optim.name is 'adam'; it may be 'sgd', 'adamw'"),
        ("c.seed = -1", "config.seed is -1; it must be from 0 to 4294967295"),
        ("c.data.workers = -1", "config.data.workers is -1; it must be at least 0"),
        ("c.data.flip = 1.5", "config.data.flip is 1.5; it must be from 0 to 1"),
        ("c.data.short_side = ()", "config.data.short_side is ()"),
        ("c.model.head.giou_eps = 'add'", "config.model.head.giou_eps is 'add'; it may be 'floor', 'added'"),
        ("c.model.neck.levels = 3; c.model.head = FCOSConfig()", "config.model.head.level_limits has 4 values"),
        ("c.model.dyhead.task = 'none'; c.model.dyhead.task.reduction = 2", "'none' object has no attribute"),
        ("c.model.dyhead.spatial = 'dyhead_jax.dyhead.spatial:Spatal'", "has no 'Spatal'"),
        ("c =", "line 4: SyntaxError"),
        ("import absent_module", "line 4: ModuleNotFoundError"),
        ("return 3", "get_config() returns a int"),
        ("raise SystemExit(3)", "line 4: SystemExit: 3"),
    ],
)
def test_wrong_config_files_are_named(text, message, tmp_path):
    path = tmp_path / "wrong.py"
    path.write_text(
        "from dyhead_jax.config import Config, FCOSConfig\ndef get_config():\n    c = Config()\n"
        f"    {text}\n    return c\n"
    )
    with pytest.raises(configs.ConfigError) as error:
        parse(f"--config={path}", f"--workdir={tmp_path / 'run'}")
    assert message in str(error.value)
    assert not (tmp_path / "run").exists()


def test_missing_arguments_and_files_are_named(config_file, tmp_path):
    with pytest.raises(command.UsageError, match="--config=FILE is missing"):
        parse()
    with pytest.raises(command.UsageError, match="--workdir=DIR is missing"):
        parse(f"--config={config_file}")
    with pytest.raises(command.UsageError, match="is a file"):
        parse(f"--config={config_file}", f"--workdir={config_file}")
    with pytest.raises(configs.ConfigError, match=r"absent\.py: no such file"):
        parse("--config=absent.py", f"--workdir={tmp_path}")
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(configs.ConfigError, match="does not define get_config"):
        parse(f"--config={tmp_path / 'empty.py'}", f"--workdir={tmp_path}")


def test_help_lists_every_option(config_file, capsys):
    assert parse("--help") is None
    assert "Trains." in capsys.readouterr().out
    assert parse(f"--config={config_file}", "--help") is None
    out = capsys.readouterr().out
    assert "A run of seconds." in out
    assert "--config.data.source.train_images=12" in out
    assert "--config.data.canvases=((64,64),)" in out
    assert "# images per step, over all devices and hosts" in out


# The folder of a run


def test_a_folder_takes_the_config_it_was_made_with(tmp_path):
    config = configs.Config()
    workdir.check(tmp_path, config)
    workdir.claim(tmp_path, config)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    workdir.check(tmp_path, config)
    free = configs.from_json(configs.to_json(config))
    free.run.log_every, free.run.parallel, free.run.shard_state = 7, "jit", 2  # checkpoints fit any devices
    free.model.backbone.remat = free.model.dyhead.remat = True
    free.model.dyhead.implementation = "gather"
    workdir.check(tmp_path, free)
    other = dataclasses.replace(
        config,
        optim=dataclasses.replace(config.optim, learning_rate=0.5),
        model=dataclasses.replace(config.model, neck=dataclasses.replace(config.model.neck, features=128)),
    )
    with pytest.raises(workdir.WorkdirError) as error:
        workdir.check(tmp_path, other)
    assert "config.optim.learning_rate was 0.01, is 0.5" in str(error.value)
    assert "config.model.neck.features was 256, is 128" in str(error.value)
    assert configs.load_file(tmp_path / "config.json") == config
    kind = dataclasses.replace(config, model=dataclasses.replace(config.model, backbone=configs.SwinConfig()))
    with pytest.raises(workdir.WorkdirError, match=r"config\.model\.backbone was a ResNetConfig, is a SwinConfig"):
        workdir.check(tmp_path, kind)


def test_a_try_that_saved_nothing_does_not_keep_its_folder(tmp_path, capsys):
    first, second = configs.Config(), configs.Config(seed=7)
    workdir.claim(tmp_path, first)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir()
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    assert workdir.check(tmp_path, second) is None
    workdir.claim(tmp_path, second)
    assert "config.json is replaced; the run that wrote it has saved nothing" in capsys.readouterr().out
    assert configs.load_file(tmp_path / "config.json") == second
    (tmp_path / "checkpoints" / "4").mkdir()
    with pytest.raises(workdir.WorkdirError, match=r"config\.seed was 7, is 0"):
        workdir.check(tmp_path, first)


def test_only_more_steps_are_a_longer_run(tmp_path):
    config = configs.Config()
    assert workdir.check(tmp_path, config) is None
    workdir.claim(tmp_path, config)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    steps = config.run.steps
    config.run.steps = steps + 1
    assert workdir.check(tmp_path, config) == steps
    config.run.steps = steps - 1
    with pytest.raises(workdir.WorkdirError, match=r"config\.run\.steps was 90000, is 89999"):
        workdir.check(tmp_path, config)


def test_what_a_resumed_run_may_change_exists():
    heads = (configs.ATSSConfig(), configs.RepPointsConfig())
    for name in workdir.FREE:
        found = []
        for head in heads:
            value = configs.Config(model=configs.ModelConfig(head=head))
            try:
                for part in name.split("."):
                    value = getattr(value, part)
            except AttributeError:
                continue
            found.append(value)
        assert found, name


def test_a_folder_of_something_else_is_refused(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(workdir.WorkdirError, match=r"has metrics\.jsonl but no config\.json"):
        workdir.check(tmp_path, configs.Config())


def test_a_config_that_is_not_utf8_is_named(tmp_path):
    (tmp_path / "config.json").write_bytes(configs.to_json(configs.Config()).encode("utf-16"))
    with pytest.raises(configs.ConfigError, match=r"config\.json is not JSON: it is not UTF-8"):
        configs.load_file(tmp_path / "config.json")


def test_the_last_line_needs_every_number_of_the_last_step():
    whole = {f"eval/{key}": 0.5 for key in average_precision.KEYS}
    part = {key: value for key, value in whole.items() if key != "eval/APl"}
    rows = [
        {"step": 4} | whole,
        {"step": 8, "train/loss": 1.0},
        {"step": 8} | part,
        {"step": 8} | whole | {"eval/AP": None},
    ]
    assert average_precision.scores_at(rows, 8) is None
    assert average_precision.scores_at([*rows, {"step": 8} | whole], 8) == dict.fromkeys(average_precision.KEYS, 0.5)
    log: Any = SimpleNamespace(rows=rows, path="run/metrics.jsonl")
    with pytest.raises(train.TrainError, match=r"run/metrics\.jsonl has no evaluation of step 8"):
        train.last_line(log, 8)  # and not `None`
    log.rows = [*rows, {"step": 8} | whole]
    assert train.last_line(log, 8).startswith("AP 0.5000 AP50 0.5000")


def test_a_wrong_number_of_classes_lists_those_of_the_data(tmp_path):
    names = [f"kind {i}" for i in range(9)]
    for part in ("train", "val"):
        (tmp_path / part / "images").mkdir(parents=True)
        (tmp_path / part / "labels").mkdir()
        Image.new("RGB", (32, 32)).save(tmp_path / part / "images" / "a.png")
        (tmp_path / part / "labels" / "a.txt").write_text("8 0.5 0.5 0.5 0.5\n")
    (tmp_path / "data.yaml").write_text(f"train: train/images\nval: val/images\nnames: {names}\n")
    config = configs.Config(data=configs.DataConfig(source=configs.PhotosConfig(root=str(tmp_path))))
    with pytest.raises(configs.ConfigError) as error:
        train.open_data(config, tmp_path)
    wanted = "config.model.num_classes is 80, but the data has 9 classes: " + ", ".join(names)
    assert str(error.value) == wanted


# Whole runs, in processes of their own


class Runs:
    """Starts train.py; all runs share drawn pictures and compiled programs."""

    def __init__(self, config_file, shared):
        self.arguments = [
            f"--config={config_file}",
            f"--config.data.source.root={shared}",
            f"--config.run.compilation_cache={os.environ['JAX_COMPILATION_CACHE_DIR']}",
        ]
        self.environment = os.environ | {
            "XLA_FLAGS": os.environ["XLA_FLAGS"] + " --xla_force_host_platform_device_count=2"
        }
        self.environment.pop("TF_CPP_MIN_LOG_LEVEL", None)  # JAX has set it in this process

    def start(self, folder, *arguments):
        return subprocess.Popen(
            [sys.executable, "train.py", *self.arguments, f"--workdir={folder}", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def finish(self, folder, *arguments):
        process = self.start(folder, *arguments)
        out, error = process.communicate(timeout=300)
        return process.returncode, out, error

    def interrupt(self, folder, step, number):
        """Sends the signal when the step has been reported."""
        process = self.start(folder)
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith(f"step {step}/"):
                process.send_signal(number)
                break
        out, error = process.communicate(timeout=300)
        return process.returncode, out, error


@pytest.fixture(scope="module")
def runs(config_file, tmp_path_factory):
    return Runs(config_file, tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def whole(runs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "whole"
    code, out, error = runs.finish(folder)
    assert code == 0, error
    return folder, out, error


def rows(folder):
    """The lines of metrics.jsonl without the two numbers that are a clock's."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in lines]


def saved_state(folder, step):
    config = configs.load_file(folder / "config.json")
    model = load_for_inference(folder, step)
    assert model.config == config
    return leaves(model.variables)


def test_a_finished_run_leaves_what_it_promises(whole):
    folder, out, error = whole
    assert out.splitlines()[-1].startswith("AP ")
    assert [word for word in out.splitlines()[-1].split() if word.startswith("AP")] == [
        "AP", "AP50", "AP75", "APs", "APm", "APl",
    ]  # fmt: skip
    assert "warn" not in error.lower()
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["checkpoints", "config.json", "figures", "metrics.jsonl"]
    assert sorted(path.name for path in (folder / "figures").iterdir()) == ["curves.png", "held_out.png"]
    found = rows(folder)
    assert [row["step"] for row in found if "train/loss" in row] == list(range(1, STEPS + 1))
    assert [row["step"] for row in found if "eval/AP" in row] == [6, 8]
    first = found[0]
    terms = [value for key, value in first.items() if key.startswith("train/loss_")]
    assert len(terms) == 3
    np.testing.assert_allclose(sum(terms), first["train/loss"], rtol=1e-5)
    assert {"train/lr", "train/grad_norm"} <= first.keys()
    trained = [[row[f"train/{name}"] for name in box_counts.NAMES] for row in found if "train/loss" in row]
    assert trained == sorted(trained)  # since the start of the run
    assert trained[0][0] > 0
    counts = dict(zip(box_counts.NAMES, map(int, trained[-1]), strict=True))
    assert out.splitlines()[-2] == box_counts.describe(counts)
    clock = [[row[name] for name in CLOCK] for row in read_metrics(folder / "metrics.jsonl") if CLOCK[1] in row]
    assert clock[0] == [None, None]  # the first step compiles
    assert len(clock) == STEPS
    assert all(speed > 0 and 0 <= wait < 1 for speed, wait in clock[1:])


def test_a_finished_run_repeats_its_result(runs, whole):
    folder, out, _ = whole
    before = (folder / "metrics.jsonl").read_bytes()
    code, again, error = runs.finish(folder)
    assert code == 0, error
    assert again.splitlines()[-1] == out.splitlines()[-1]
    assert "step 1/" not in again
    assert (folder / "metrics.jsonl").read_bytes() == before


def test_an_error_is_one_line_and_writes_nothing_over(runs, whole):
    folder = whole[0]
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    code, _, error = runs.finish(folder, "--config.optim.learning_rate=0.5")
    assert code == 1
    assert error.count("\n") == 1
    assert "config.optim.learning_rate was 0.002, is 0.5" in error
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_step_that_runs_is_seen():
    """Of a program of a second or so, while it runs and after."""
    x = jax.device_put(np.ones((256, 256), np.float32) / 256)
    slow = jax.jit(lambda x: jax.lax.fori_loop(0, 3000, lambda _, y: y @ x, x)).lower(x).compile()
    pending = 3, {"loss": slow(x)}, np.zeros(2)
    assert train.is_running(pending)
    jax.block_until_ready(pending[1])
    assert not train.is_running(pending)
    assert not train.is_running(None)


@pytest.mark.long
def test_a_stopped_and_killed_run_ends_as_an_uninterrupted_one(runs, whole, tmp_path):
    folder = tmp_path / "run"
    code, out, error = runs.interrupt(folder, 1, signal.SIGTERM)
    assert code == train.STOPPED, error
    assert "stopped after step" in out.splitlines()[-1]
    stopped = load_for_inference(folder).step
    assert 2 <= stopped < STEPS
    code, _, error = runs.interrupt(folder, 5, signal.SIGKILL)
    assert code == -signal.SIGKILL, error
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "train/lo')  # as a kill within a write leaves it
    code, out, error = runs.finish(folder)
    assert code == 0, error
    assert "going on from step" in out
    assert out.splitlines()[-1] == whole[1].splitlines()[-1]
    assert rows(folder) == rows(whole[0])
    ours, wanted = saved_state(folder, STEPS), saved_state(whole[0], STEPS)
    assert ours.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(ours[name], wanted[name], err_msg=name)


@pytest.mark.long
def test_a_finished_run_is_trained_longer(runs, whole, tmp_path):
    """With a constant learning rate it ends as a run that was so long from the start, to the bit."""
    code, _, error = runs.finish(tmp_path, "--config.run.steps=4")
    assert code == 0, error
    code, out, error = runs.finish(tmp_path)
    assert code == 0, error
    assert f"note: {STEPS} steps in place of 4; the learning rate is constant" in out
    ours, wanted = saved_state(tmp_path, STEPS), saved_state(whole[0], STEPS)
    assert ours.keys() == wanted.keys()
    for name in wanted:
        np.testing.assert_array_equal(ours[name], wanted[name], err_msg=name)
