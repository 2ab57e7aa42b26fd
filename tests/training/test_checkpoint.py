"""What is saved comes back to the bit, on any number of devices, and what is broken is named."""

import json
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import grain
import jax
import numpy as np
import pytest

from dyhead_jax import config as configs
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.training import checkpoint, optim, parallel, steps, stored, workdir
from dyhead_jax.training.checkpoint import CheckpointError, Checkpoints
from dyhead_jax.training.steps import TrainState
from dyhead_jax.training.stored import DamagedError
from tests import tiny_detector
from tests.tiny_detector import TinyDetector, leaves, make_batch

OPTIM = configs.OptimConfig(ema=0.9, warmup_steps=0)


def start(kind):
    devices = parallel.make(kind, 8)
    model = TinyDetector(axis_name=devices.axis_name)
    parameters = steps.survey(model, (64, 64))
    optimizer, schedule = optim.make_optimizer(OPTIM, 10, parameters), optim.make_schedule(OPTIM, 10)
    variables = steps.jit_once(lambda key: steps.init_variables(model, key, tiny_detector.CANVAS))(jax.random.key(0))
    state = jax.device_get(steps.create_state(parameters, optimizer, variables, 7, ema=OPTIM.ema))
    step = steps.make_train_step(model, optimizer, schedule, parameters, axis_name=devices.axis_name, ema=OPTIM.ema)
    return devices, devices.train_step(step), state


def advance(devices, step, state, count):
    placed = devices.replicate(state)
    for i in range(count):
        placed, _ = step(placed, devices.put(make_batch(8, i)))
    return devices.unreplicate(placed)


@pytest.fixture(scope="module")
def trained():
    devices, step, state = start("pmap")
    return devices, step, advance(devices, step, state, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory, trained):
    """One checkpoint at step 2, with an iterator that had read three items."""
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    for _ in range(3):
        next(iterator)
    folder = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(trained[2], {"config": {}, "note": "x"}, data_state=iterator.get_state())
    return folder


def assert_equal(a, b):
    left, right = leaves(a), leaves(b)
    assert left.keys() == right.keys()
    for key in left:
        assert left[key].dtype == right[key].dtype, key
        np.testing.assert_array_equal(left[key], right[key], err_msg=key)


def test_round_trip_to_the_bit(folder, trained):
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    like = start("single")[2]
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.steps() == [2]
        state, positioned = checkpoints.restore(2, like, iterator)
        assert checkpoints.meta(2) == {"config": {}, "note": "x"}
    assert_equal(state, trained[2])
    assert positioned
    assert next(iterator) == 3


def test_restored_on_one_device_and_on_eight_goes_on_alike(folder, trained):
    devices, step, state = trained
    wanted = advance(devices, step, state, 2)
    with Checkpoints(folder, read_only=True) as checkpoints:
        restored, _ = checkpoints.restore(2, state)
    assert_equal(advance(devices, step, restored, 2), wanted)
    devices, step, _ = start("single")
    assert tiny_detector.max_relative_difference(advance(devices, step, restored, 2).params, wanted.params) < 1e-5


def test_an_iterator_of_other_processes_is_left_alone(folder, trained, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    position = copy / "2" / "data" / "process_0-of-1.json"
    position.rename(position.with_name("process_0-of-4.json"))
    iterator = iter(grain.MapDataset.range(100).to_iter_dataset())
    with Checkpoints(copy) as checkpoints:
        _, positioned = checkpoints.restore(2, trained[2], iterator)
    assert not positioned
    assert next(iterator) == 0


def test_the_last_ones_and_the_best_are_kept_also_after_reopening(tmp_path, trained):
    state = trained[2]
    scores = {1: 0.1, 2: 0.9, 3: None, 4: 0.3, 5: 0.2, 6: None, 7: 0.4}
    for part in ([1, 2, 3, 4], [5, 6, 7]):
        with Checkpoints(tmp_path, max_to_keep=2) as checkpoints:
            for step in part:
                evaluation = None if scores[step] is None else {"AP": scores[step]}
                checkpoints.save(replace(state, step=np.int32(step)), {"evaluation": evaluation})
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 6, 7]


def test_what_a_killed_save_left_is_not_a_checkpoint(folder, trained, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    shutil.copytree(copy / "2", copy / "3.orbax-checkpoint-tmp")
    with Checkpoints(copy) as checkpoints:
        assert checkpoints.steps() == [2]
        checkpoints.save(replace(trained[2], step=np.int32(3)), {})
    assert sorted(path.name for path in copy.iterdir()) == ["2", "3"]


@pytest.mark.parametrize("item", ["variables", "optimizer", "average", "meta"])
def test_a_missing_part_is_named(item, folder, trained, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    shutil.rmtree(copy / "2" / item)
    with Checkpoints(copy, read_only=True) as checkpoints:
        read = checkpoints.meta if item == "meta" else lambda step: checkpoints.restore(step, trained[2])
        with pytest.raises(CheckpointError, match=f"2: the checkpoint has no '{item}'"):
            read(2)


def test_truncated_files_are_named(folder, trained, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "checkpoints")
    for path in (copy / "2" / "variables").rglob("*"):
        if path.is_file() and "/d/" in str(path):
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    (copy / "2" / "meta" / "metadata").write_text("{")
    with Checkpoints(copy, read_only=True) as checkpoints:
        with pytest.raises(CheckpointError, match="2: 'variables' cannot be restored") as error:
            checkpoints.restore(2, trained[2])
        assert "\n" not in str(error.value)
        with pytest.raises(CheckpointError, match="2: 'meta' cannot be restored"):
            checkpoints.meta(2)


def test_another_models_shapes_are_named(folder, trained):
    other = replace(trained[2], params=jax.tree.map(lambda x: np.zeros((*x.shape, 2), x.dtype), trained[2].params))
    with Checkpoints(folder) as checkpoints, pytest.raises(CheckpointError) as error:
        checkpoints.restore(2, other)
    assert "\n" not in str(error.value)


def test_loading_says_what_is_missing(tmp_path, folder):
    with pytest.raises(CheckpointError, match="no such folder"):
        load_for_inference(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"is .* the workdir of a run"):
        load_for_inference(tmp_path)
    with pytest.raises(CheckpointError, match="has no step 5; it has 2"):
        load_for_inference(folder.parent, 5)
    with pytest.raises(CheckpointError, match="meta has no class_names, category_ids"):
        load_for_inference(folder.parent)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CheckpointError, match="has no complete checkpoint"):
        load_for_inference(tmp_path)


def test_meta_is_json():
    meta = checkpoint.make_meta(configs.Config(), ("a",), (np.int64(7),), {"AP": 0.5})  # type: ignore[arg-type]
    again = json.loads(json.dumps(meta))
    assert configs.from_json(json.dumps(again["config"])) == configs.Config()
    assert again["category_ids"] == [7]


KILLED = """
import os, signal, sys
import numpy as np
from dyhead_jax.training.checkpoint import Checkpoints
from dyhead_jax.training.steps import TrainState

def kill(event, args):
    if event == "os.rmdir" and os.path.basename(args[0]) == "meta":
        os.kill(os.getpid(), signal.SIGKILL)

def state(step):
    return TrainState(np.int32(step), {"a": np.full(9, step, np.float32)}, {}, {"m": np.zeros(9, np.float32)})

with Checkpoints(sys.argv[1], max_to_keep=1) as checkpoints:
    checkpoints.save(state(1), {"note": "x"})
    checkpoints.wait()
    sys.addaudithook(kill)
    checkpoints.save(state(2), {"note": "y"})
    checkpoints.wait()
"""


def test_a_kill_while_an_old_one_is_deleted_leaves_whole_ones(tmp_path):
    folder = tmp_path / "checkpoints"
    ended = subprocess.run([sys.executable, "-c", KILLED, str(folder)], capture_output=True, text=True, timeout=300)
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    with Checkpoints(folder) as checkpoints:
        assert checkpoints.latest() == 2
        assert {checkpoints.meta(step)["note"] for step in checkpoints.steps()} <= {"x", "y"}
    assert [path.name for path in folder.iterdir() if path.is_dir()] == ["2"]


# What goes wrong between saving and reading


def small(step):
    return TrainState(np.int32(step), {"a": np.full(9, step, np.float32)}, {}, {"m": np.zeros(9, np.float32)})


@pytest.fixture
def two(tmp_path):
    """Checkpoints of the steps 1 and 2."""
    folder = tmp_path / "checkpoints"
    with Checkpoints(folder, max_to_keep=2) as checkpoints:
        for step in (1, 2):
            checkpoints.save(small(step), {"class_names": ["x"]}, data_state={"step": step})
    return folder


def newest(folder):
    with Checkpoints(folder) as checkpoints:
        return checkpoints.newest_intact()


def wrong_bit(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


def other_value(path):
    path.write_text(path.read_text().replace("x", "y"))


def other_position(path):
    path.write_text('{"step": 1}')


@pytest.mark.parametrize(
    ("name", "damage", "reason"),
    [
        ("digests/metadata", wrong_bit, "is not what was written"),
        ("meta/metadata", other_value, "'meta' is not what was written"),
        ("variables/manifest.ocdbt", wrong_bit, "'variables' cannot be restored"),
        ("data/process_0-of-1.json", other_position, "is not the position of the input at step 2"),
        ("optimizer", shutil.rmtree, "the checkpoint has no 'optimizer'"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(two, capsys, name, damage, reason):
    damage(two / "2" / name)
    assert newest(two) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"warning: {two / '2'}")
    assert reason in said
    assert said.endswith("; step 1 is used instead\n")
    assert sorted(path.name for path in two.iterdir() if path.is_dir()) == ["1", "damaged_2"]
    with Checkpoints(two) as checkpoints:  # the run comes to this step again
        checkpoints.save(small(2), {"class_names": ["x"]}, data_state={"step": 2})
    assert newest(two) == 2


def test_other_weights_are_not_taken_for_those_that_were_written(two, monkeypatch):
    """Whatever a wrong bit turns into: the file formats below notice some, the digests all."""
    restore = stored.restore

    def changed(where, item, *arguments):
        found = restore(where, item, *arguments)
        return {"params": {"a": found["params"]["a"] + 1}} if item == "variables" and where.name == "2" else found

    monkeypatch.setattr(stored, "restore", changed)
    with Checkpoints(two, read_only=True) as checkpoints:
        with pytest.raises(DamagedError, match="2: params/a of 'variables' is not what was written"):
            checkpoints.restore(2, small(2))
        assert checkpoints.newest(lambda step: checkpoints.restore(step, small(step)))[0].step == 1


def test_the_only_checkpoint_being_damaged_is_an_error(two):
    shutil.rmtree(two / "1")
    other_value(two / "2" / "meta" / "metadata")
    with pytest.raises(DamagedError, match="2: 'meta' is not what was written"):
        newest(two)
    assert (two / "2").is_dir()


def test_checkpoints_of_earlier_versions_have_no_digests(two):
    for step in ("1", "2"):
        shutil.rmtree(two / step / "digests")
    assert newest(two) == 2
    with Checkpoints(two, read_only=True) as checkpoints:
        assert_equal(checkpoints.restore(2, small(2))[0], small(2))


@pytest.mark.parametrize(
    "wrong",
    [
        {"class_names": "cat"},
        {"class_names": [1]},
        {"category_ids": ["1"]},
        {"config": []},
        {"evaluation": {"AP": "high"}},
        {"class_names": ["a"], "category_ids": [1, 2]},
    ],
)
def test_wrong_types_in_meta_are_named(two, wrong):
    shutil.rmtree(two / "2" / "digests")
    (two / "2" / "meta" / "metadata").write_text(json.dumps(wrong))
    with Checkpoints(two, read_only=True) as checkpoints, pytest.raises(DamagedError, match="2: meta: ") as error:
        checkpoints.meta(2)
    assert next(iter(wrong)) in str(error.value)


def test_nothing_is_deleted_before_the_new_one_was_read_back(two, monkeypatch):
    def unreadable(where):
        raise DamagedError(f"{where}: unreadable")

    with Checkpoints(two, max_to_keep=1) as checkpoints:
        monkeypatch.setattr(stored, "verify", unreadable)
        checkpoints.save(small(3), {})
        with pytest.raises(DamagedError, match="3: unreadable"):
            checkpoints.wait()
    assert stored.steps_in(two) == [1, 2, 3]


def test_no_process_looks_at_the_folder_while_old_ones_are_deleted(two, monkeypatch):
    order = []
    with Checkpoints(two) as checkpoints:
        for owner, name in (
            (checkpoints, "wait"), (checkpoint.multihost_utils, "sync_global_devices"), (checkpoints, "steps"),
            (checkpoints._manager, "reload"),
        ):  # fmt: skip
            call = getattr(owner, name)
            monkeypatch.setattr(owner, name, lambda *a, name=name, call=call: (order.append(name), call(*a))[1])
        checkpoints.save(small(3), {})
        assert order == ["wait", "sync_global_devices", "steps", "reload"]


def save_and_go_on(checkpoints):
    checkpoints.save(small(3), {})
    for _ in range(6000):
        checkpoints.poll()
        time.sleep(0.01)


def test_a_full_disk_is_noticed_at_once_in_one_line(two, capfd):
    """A limit for each file stands in for the disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Checkpoints(two) as checkpoints:
        resource.setrlimit(resource.RLIMIT_FSIZE, (200, limits[1]))
        try:
            with pytest.raises(CheckpointError, match="checkpoints: a checkpoint cannot be written: File too large"):
                save_and_go_on(checkpoints)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert capfd.readouterr().err == ""
    assert stored.steps_in(two) == [1, 2]


@pytest.mark.parametrize("name", ["sweep[1]", "a*", "a?", "back\\slash"])
def test_a_path_that_could_not_be_read_again_is_refused_before_anything_is_written(tmp_path, name):
    with pytest.raises(CheckpointError, match="cannot be read again; choose a path without any of"):
        Checkpoints(tmp_path / name / "checkpoints")
    with pytest.raises(CheckpointError, match="cannot be read again"):
        workdir.check(tmp_path / name, configs.Config())
    assert list(tmp_path.iterdir()) == []
