"""Batches: the same whatever the hosts, workers and interruptions."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import grain.checkpoint
import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from dyhead_jax.config import DataConfig
from dyhead_jax.data import pipeline
from dyhead_jax.data.coco_split import CocoSplit
from dyhead_jax.data.schedule import choose_canvases
from dyhead_jax.data.source import DataError, Example, make_source
from dyhead_jax.data.transforms import Placed
from tests.data.folders import data_config, rewrite, write_split

_SIZES = [(20, 30), (30, 20), (24, 36), (10, 12), (40, 25), (64, 96), (21, 30), (8, 300), (33, 50), (30, 31), (9, 9)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("folder")
    rng = np.random.default_rng(0)
    boxes = []
    for row, (height, width) in enumerate(_SIZES):
        corners = rng.uniform(0, 0.5, (0 if row == 4 else 1 + row % 4, 2)) * [width, height]
        boxes.append([[*corner.tolist(), width * 0.4, height * 0.45] for corner in corners])
    content = write_split(root, "train", _SIZES, boxes)
    content["annotations"][2]["iscrowd"] = 1
    rewrite(root, "train", content)
    write_split(root, "val", _SIZES, boxes)
    return root


def _config(folder: Path, **fields: Any) -> DataConfig:
    jitter = {"scale_jitter": (0.7, 1.5), "color_jitter": 0.3, "short_side": (24, 32)}
    return data_config(folder, **{**jitter, **fields})


def _split(config: DataConfig, name: str = "train") -> CocoSplit:
    return make_source(config, "unused").split(name)  # type: ignore[return-value]


def _take(config: DataConfig, count: int, **options: Any) -> list[pipeline.Loaded]:
    batches = pipeline.train_batches(_split(config), config, 5, **options)
    taken = [next(batches) for _ in range(count)]
    batches.close()
    return taken


def _assert_equal(ours: Any, theirs: Any) -> None:
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


@pytest.fixture(scope="module")
def single(folder: Path) -> list[pipeline.Loaded]:
    return _take(_config(folder), 12)


def test_shapes_dtypes_and_padding(single: list[pipeline.Loaded]) -> None:
    shapes = set()
    for loaded in single:
        truth, images = loaded.batch.ground_truth, loaded.batch.images
        shapes.add(images.shape)
        assert images.dtype == np.uint8
        assert (truth.boxes.shape, truth.boxes.dtype) == ((4, 5, 4), np.float32)
        assert (truth.labels.shape, truth.labels.dtype) == ((4, 5), np.int32)
        assert truth.mask.dtype == truth.crowd.dtype == np.bool_
        assert (loaded.image_ids.dtype, loaded.scales.dtype) == (np.int64, np.float32)
        assert truth.sizes is not None
        for row, (height, width) in enumerate(truth.sizes):
            assert not images[row, height:].any()
            assert not images[row, :, width:].any()
            boxes = np.asarray(truth.boxes[row])[truth.mask[row]]
            assert (boxes[:, 2:] - boxes[:, :2] >= 1).all()
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= np.array([[width, height]])).all()
        assert not np.asarray(truth.boxes)[~np.asarray(truth.mask)].any()
        assert not (np.asarray(truth.crowd) & ~np.asarray(truth.mask)).any()
    assert shapes == {(4, 32, 48, 3), (4, 48, 32, 3)}
    assert any(np.asarray(loaded.batch.ground_truth.crowd).any() for loaded in single)


def test_every_image_with_boxes_is_seen_once_a_pass(folder: Path) -> None:
    config = _config(folder, canvases=((48, 48),), batch_size=2)
    seen = np.concatenate([loaded.image_ids for loaded in _take(config, 10)])
    trained = [100 + row for row in range(len(_SIZES)) if row != 4]
    assert sorted(seen[:10]) == sorted(seen[10:]) == trained
    _, notes = pipeline.train_images(_split(config), config)
    assert notes == ["1 of 11 images without boxes left out (data.skip_empty)"]
    everything, notes = pipeline.train_images(_split(config), _config(folder, skip_empty=False, max_boxes=3))
    assert len(everything) == 11
    assert notes == ["2 images have more than data.max_boxes=3 boxes; the largest are kept"]


def test_every_canvas_shows_its_images_once_an_epoch(folder: Path) -> None:
    config = _config(folder, canvases=((32, 48), (48, 32), (34, 34)), batch_size=3)
    split = _split(config)
    batches = pipeline.train_batches(split, config, 5)
    shown = [batches.image_ids(step).tolist() for step in range(100)]
    loaded = [next(batches) for _ in range(4)]
    batches.close()
    assert [batch.image_ids.tolist() for batch in loaded] == shown[:4]
    rows, _ = pipeline.train_images(split, config)
    canvases = choose_canvases(split.sizes[rows], config.canvases, 32, 48)
    assert sorted(set(canvases)) == [0, 1, 2]
    for canvas in range(3):
        group = sorted(split.image_ids[rows[canvases == canvas]])
        sequence = [image_id for own in shown if own[0] in group for image_id in own]
        assert len(sequence) >= 3 * len(group)
        for start in range(0, len(sequence) - len(group) + 1, len(group)):
            assert sorted(sequence[start : start + len(group)]) == group


def test_resuming_is_exact(folder: Path, single: list[pipeline.Loaded], tmp_path: Path) -> None:
    config = _config(folder)
    batches = pipeline.train_batches(_split(config), config, 5)
    for _ in range(4):
        next(batches)
    state = json.loads(json.dumps(batches.get_state()))
    with ocp.CheckpointManager(tmp_path) as manager:
        manager.save(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointSave(batches)))  # type: ignore[arg-type]
        next(batches)
        manager.wait_until_finished()
        again = pipeline.train_batches(_split(config), config, 5)
        next(again)
        manager.restore(4, args=ocp.args.Composite(data=grain.checkpoint.CheckpointRestore(again)))  # type: ignore[arg-type]
    _assert_equal(next(again), single[4])
    batches.set_state(state)
    for expected in single[4:8]:
        _assert_equal(next(batches), expected)
    _assert_equal(_take(config, 2, start_step=9), single[9:11])
    with pytest.raises(DataError, match="not the state"):
        batches.set_state({"next_index": 3})
    batches.close()
    again.close()


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_see_what_one_sees(folder: Path, single: list[pipeline.Loaded], hosts: int) -> None:
    parts = [_take(_config(folder), 3, process_index=i, process_count=hosts) for i in range(hosts)]
    for step in range(3):
        own = [part[step] for part in parts]
        _assert_equal(jax.tree.map(lambda *rows: np.concatenate(rows), *own), single[step])


_EVERYTHING = {
    "random_crop": 0.5, "blur": 1.0, "noise": 5.0, "mosaic": 0.5, "copy_boxes": 0.5, "mixup": 0.5,
    "repeat_factor": 0.9, "max_boxes": 9,
}  # fmt: skip


def test_with_all_that_is_random_resuming_and_hosts_are_exact(folder: Path) -> None:
    config = _config(folder, **_EVERYTHING)
    whole = _take(config, 6)
    _assert_equal(_take(config, 2, start_step=4), whole[4:])
    parts = [_take(config, 6, process_index=i, process_count=2) for i in range(2)]
    for step in range(6):
        own = [part[step] for part in parts]
        _assert_equal(jax.tree.map(lambda *rows: np.concatenate(rows), *own), whole[step])
    images = np.stack([loaded.batch.images for loaded in whole if loaded.batch.images.shape[1] == 32])
    assert len(np.unique(images.reshape(-1, *images.shape[2:]), axis=0)) == images.shape[0] * 4
    assert any(loaded.left_out.any() for loaded in whole)
    _, notes = pipeline.train_images(_split(config), config)
    assert any("rare classes repeated (data.repeat_factor): 1." in note for note in notes)


def test_repeat_factor_shows_rare_classes_more_often(tmp_path: Path) -> None:
    box = [2.0, 2.0, 9.0, 9.0]
    content = write_split(tmp_path, "train", [(20, 30)] * 20, [[box]] * 20)
    for record in content["annotations"]:
        record["category_id"] = 3 if record["image_id"] == 104 else 7
    rewrite(tmp_path, "train", content)
    config = _config(tmp_path, repeat_factor=0.45)  # a class in one of 20 images: sqrt(.45 * 20) = 3
    batches = pipeline.train_batches(_split(config), config, 0)
    shown = np.concatenate([batches.image_ids(step) for step in range(11)])
    assert np.count_nonzero(shown[:22] == 104) == np.count_nonzero(shown[22:44] == 104) == 3
    assert sorted(set(shown[:22])) == list(range(100, 120))


_WORKERS = """
import json, multiprocessing, os, signal, sys
from pathlib import Path
from absl import app
from dyhead_jax.data import pipeline
from tests.data.test_pipeline import _checksums, _config, _split, _take

def main(argv):
    config = _config(Path(argv[1]), workers=2)
    if argv[2:] == ["killed"]:
        batches = pipeline.train_batches(_split(config), config, 5)
        next(batches)
        workers = [child.pid for child in multiprocessing.active_children()]
        for pid in workers:  # as a terminal and a scheduler, which send them to the whole group
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGTERM)
        for _ in range(12):  # more than was loaded ahead
            next(batches)
        print(json.dumps(workers), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    print(json.dumps(_checksums(_take(config, 4, start_step=2))))

if __name__ == "__main__":
    app.run(main)
"""


def _checksums(taken: list[pipeline.Loaded]) -> list[Any]:
    # Weighted, so that an exchange of rows or pixels shows.
    weights = np.arange(1, taken[0].batch.images.size + 1).reshape(-1)
    return [
        [int(weights @ t.batch.images.reshape(-1)), t.image_ids.tolist(), t.batch.ground_truth.boxes.tolist()]
        for t in taken
    ]


def _with_workers(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "workers.py"
    script.write_text(_WORKERS)
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, str(script), *arguments]
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.long
def test_worker_processes_end_with_a_killed_one_and_by_no_signal_of_their_own(folder: Path, tmp_path: Path) -> None:
    done = _with_workers(tmp_path, str(folder), "killed")
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert done.stderr == ""
    workers = json.loads(done.stdout.strip().splitlines()[-1])
    assert len(workers) == 2
    deadline = time.monotonic() + 30
    while any(_lives(pid) for pid in workers):
        assert time.monotonic() < deadline, "they live on"
        time.sleep(0.1)


def test_a_lost_worker_is_named(folder: Path) -> None:
    config = _config(folder)
    batches = pipeline.train_batches(_split(config), config, 5)

    class Lost:
        def __next__(self) -> None:
            raise RuntimeError("Worker process was terminated unexpectedly with exit code -9. Search the logs above")

        def close(self) -> None:
            pass

    batches._inner = Lost()  # type: ignore[assignment]
    with pytest.raises(DataError, match=r"a loading process ended with exit code -9, .* config\.data\.workers=0"):
        next(batches)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_worker_processes_give_the_same_batches(folder: Path, single: list[pipeline.Loaded], tmp_path: Path) -> None:
    done = _with_workers(tmp_path, str(folder))
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == _checksums(single[2:6])


def test_each_row_and_step_draws_for_itself(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(20, 30)], [[[2.0, 2.0, 9.0, 9.0]]])
    rows = [image.tobytes() for loaded in _take(_config(tmp_path), 3) for image in np.asarray(loaded.batch.images)]
    assert len(set(rows)) == 12


def test_seeds_differ(folder: Path, single: list[pipeline.Loaded]) -> None:
    config = _config(folder)
    other = pipeline.train_batches(_split(config), config, 6)
    assert not np.array_equal(next(other).image_ids, single[0].image_ids)
    other.close()


@pytest.mark.parametrize(("hosts", "batch"), [(1, 4), (1, 1), (2, 4), (2, 5), (3, 3), (3, 4), (4, 8)])
def test_evaluation_sees_every_image_once(folder: Path, hosts: int, batch: int) -> None:
    config = _config(folder, eval_batch_size=batch)
    split = _split(config, "val")
    ours = [list(pipeline.eval_batches(split, config, process_index=i, process_count=hosts)) for i in range(hosts)]
    shapes = [[loaded.batch.images.shape for loaded in own] for own in ours]
    assert all(own == shapes[0] for own in shapes)
    assert all(shape[0] == -(-batch // hosts) for shape in shapes[0])
    ids = np.concatenate([loaded.image_ids for own in ours for loaded in own])
    assert sorted(ids[ids >= 0]) == sorted(split.image_ids)
    for loaded in (loaded for own in ours for loaded in own):
        filler = loaded.image_ids < 0
        truth = loaded.batch.ground_truth
        assert not np.asarray(truth.mask)[filler].any()
        assert not np.asarray(loaded.batch.images)[filler].any()
        for row in np.flatnonzero(~filler):
            original = split.sizes[loaded.image_ids[row] - 100]
            np.testing.assert_allclose(loaded.scales[row] * original, np.asarray(truth.sizes)[row], rtol=1e-5)


def test_evaluation_boxes_scale_back(folder: Path) -> None:
    config = _config(folder)
    split = _split(config, "val")
    for loaded in pipeline.eval_batches(split, config):
        for row, image_id in enumerate(loaded.image_ids):
            if image_id < 0:
                continue
            truth = loaded.batch.ground_truth
            boxes = np.asarray(truth.boxes)[row][np.asarray(truth.mask)[row]]
            back = boxes / np.tile(loaded.scales[row][::-1], 2)[None, :]
            np.testing.assert_allclose(back, split[int(image_id) - 100].boxes, atol=1e-3)


def test_too_many_boxes_keep_the_largest_and_crowds_last() -> None:
    boxes = np.array([[0, 0, s, s] for s in (3, 9, 5, 20, 7)], np.float32)
    crowd = np.array([False, False, False, True, False])
    example = Example(np.zeros((32, 32, 3), np.uint8), 1, "x", boxes, np.arange(5, dtype=np.int32), crowd)
    loaded = pipeline.collate([Placed(example, (1.0, 1.0), 2)], (32, 32), 3)
    np.testing.assert_array_equal(loaded.batch.ground_truth.labels, [[1, 2, 4]])
    assert loaded.left_out.tolist() == [4]


def test_errors(folder: Path, tmp_path: Path) -> None:
    config = _config(folder)
    with pytest.raises(DataError, match=r"data\.batch_size 4 is not a multiple of the 3 hosts"):
        pipeline.train_batches(_split(config), config, 0, process_count=3)
    with pytest.raises(DataError, match=r"data\.short_side is \(\)"):
        pipeline.train_batches(_split(config), _config(folder, short_side=()), 0)
    for name in ("train", "val"):
        write_split(tmp_path, name, [(20, 30)], [[]])
    empty = _config(tmp_path)
    with pytest.raises(DataError, match="no image with a box"):
        pipeline.train_batches(_split(empty), empty, 0)
    without = _take(_config(tmp_path, skip_empty=False), 1)
    assert not np.asarray(without[0].batch.ground_truth.mask).any()


def test_an_unreadable_image_is_named_from_the_loader(tmp_path: Path) -> None:
    write_split(tmp_path, "train", [(20, 30)] * 3, [[[2.0, 2.0, 9.0, 9.0]]] * 3)
    config = _config(tmp_path)
    batches = pipeline.train_batches(_split(config), config, 0)
    path = tmp_path / "train" / "1.png"
    path.write_bytes(path.read_bytes()[:700])
    with pytest.raises(DataError, match=r"train/1\.png: the image is broken"):
        next(batches)
    batches.close()
    with pytest.raises(DataError, match=r"train/1\.png"):
        list(pipeline.eval_batches(_split(config), config))
