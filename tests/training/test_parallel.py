"""Every way to use the devices gives one and the same update."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from dyhead_jax import config as configs
from dyhead_jax import detectors
from dyhead_jax.backbones import resnet
from dyhead_jax.training import optim, parallel, steps
from dyhead_jax.types import Batch
from tests import tiny_detector
from tests.tiny_detector import TinyDetector, leaves, make_batch, max_relative_difference, quickly_compiled

OPTIM = configs.OptimConfig(learning_rate=0.05, warmup_steps=2, warmup_start=0.5, clip_norm=1.0, ema=0.9)


@pytest.fixture(scope="module")
def variables():
    model = TinyDetector()
    return jax.device_get(
        steps.jit_once(lambda key: steps.init_variables(model, key, tiny_detector.CANVAS))(jax.random.key(0))
    )


def run(kind, variables, *, accumulate=1, batch_norm=True, count=3, size=16, shard_state=1):
    devices = parallel.make(kind, size, accumulate, shard_state)
    model = TinyDetector(axis_name=devices.axis_name, batch_norm=batch_norm)
    parameters = steps.survey(model, (64, 64))
    optimizer, schedule = optim.make_optimizer(OPTIM, 10, parameters), optim.make_schedule(OPTIM, 10)
    state = devices.replicate(steps.create_state(parameters, optimizer, variables, ema=OPTIM.ema))
    step = devices.train_step(
        steps.make_train_step(
            model, optimizer, schedule, parameters, axis_name=devices.axis_name, accumulate=accumulate, ema=OPTIM.ema
        )
    )
    history = []
    for i in range(count):
        state, metrics = step(state, devices.put(make_batch(size, i)))
        history.append(devices.unreplicate(metrics))
    return devices.unreplicate(state), history


@pytest.fixture(scope="module")
def single(variables):
    return run("single", variables)


@pytest.mark.parametrize(("kind", "shard_state"), [("pmap", 1), ("jit", 1), ("jit", 4)])
def test_the_update_is_that_of_one_device(kind, shard_state, variables, single):
    assert jax.device_count() == 8
    state, history = run(kind, variables, shard_state=shard_state)
    assert max_relative_difference(state.params, single[0].params) < 1e-5
    assert max_relative_difference(state.batch_stats, single[0].batch_stats) < 1e-5
    assert max_relative_difference(state.average, single[0].average) < 1e-5
    assert max_relative_difference(state.opt_state, single[0].opt_state) < 1e-4
    for a, b in zip(history, single[1], strict=True):
        assert max_relative_difference(a, b) < 1e-5
    assert max_relative_difference(state.params, variables["params"]) > 1e-3  # it did train
    assert max_relative_difference(state.batch_stats, variables["batch_stats"]) > 1e-3


@pytest.mark.parametrize(("kind", "accumulate"), [("single", 4), ("pmap", 2), ("jit", 2)])
def test_micro_batches_are_the_whole_batch(kind, accumulate, variables):
    whole, whole_history = run("single", variables, batch_norm=False)
    parts, history = run(kind, variables, batch_norm=False, accumulate=accumulate)
    assert max_relative_difference(parts.params, whole.params) < 1e-5
    assert max_relative_difference(history, whole_history) < 1e-5


@pytest.fixture(scope="module")
def atss():
    """A whole detector with DyHead and cross-replica batch norm, and a batch whose images have 0 to 3 boxes."""
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    model = configs.ModelConfig(
        num_classes=3,
        backbone=configs.ResNetConfig(depth=18, width=4, norm="sync", frozen_stages=0),
        neck=configs.FPNConfig(features=8, levels=2),
        dyhead=configs.DyHeadConfig(num_blocks=1, features=8, norm_groups=4),
    )
    draw = np.random.default_rng(0)
    corner, side = draw.uniform(0, 16, (16, 3, 2)), draw.uniform(30, 48, (16, 3, 2))
    small = make_batch(16).ground_truth
    truth = small.replace(
        boxes=np.concatenate([corner, corner + side], -1).astype(np.float32),
        labels=draw.integers(0, 3, (16, 3)).astype(np.int32),
        sizes=np.full((16, 2), 64, np.int32),
    )
    batch = Batch(images=draw.integers(0, 256, (16, 64, 64, 3), np.uint8), ground_truth=truth)
    variables = steps.jit_once(lambda: steps.init_variables(detectors.build(model), jax.random.key(0), (64, 64)))()
    yield model, jax.device_get(variables), batch
    monkeypatch.undo()


def run_atss(atss, kind, accumulate=1, norm="sync"):
    config, variables, batch = atss
    config = replace(config, backbone=replace(config.backbone, norm=norm))
    devices = parallel.make(kind, 16, accumulate)
    model = detectors.build(config, axis_name=devices.axis_name)
    parameters = steps.survey(model, (64, 64))
    optimizer, schedule = optim.make_optimizer(OPTIM, 10, parameters), optim.make_schedule(OPTIM, 10)
    step = devices.train_step(
        steps.make_train_step(
            model, optimizer, schedule, parameters, axis_name=devices.axis_name, accumulate=accumulate
        )
    )
    state = devices.replicate(steps.create_state(parameters, optimizer, variables))
    placed = devices.put(batch)
    step = quickly_compiled(step, state, placed)
    for _ in range(3):
        state, metrics = step(state, placed)
    return devices.unreplicate(state), devices.unreplicate(metrics)


def all_as_one(tree):
    return np.concatenate([leaf.ravel() for leaf in leaves(tree).values()])


def assert_same_update(found, wanted, start):
    """Relative to all parameters, and more sharply to what three steps changed."""
    ours, theirs, before = all_as_one(found[0].params), all_as_one(wanted[0].params), all_as_one(start)
    assert np.linalg.norm(ours - theirs) < 1e-5 * np.linalg.norm(theirs)
    assert np.linalg.norm(ours - theirs) < 1e-3 * np.linalg.norm(theirs - before)
    assert wanted[1]["loss_box"] > 0  # there are positives
    for name, value in wanted[1].items():
        np.testing.assert_allclose(found[1][name], value, rtol=1e-4, err_msg=name)


@pytest.mark.long
def test_the_update_of_a_whole_detector_is_that_of_one_device(atss):
    single = run_atss(atss, "single")
    for kind in ("pmap", "jit"):
        found = run_atss(atss, kind)
        assert_same_update(found, single, atss[1]["params"])
        assert max_relative_difference(found[0].batch_stats, single[0].batch_stats) < 1e-4


@pytest.mark.long
def test_micro_batches_of_a_whole_detector_are_the_whole_batch(atss):
    whole = run_atss(atss, "single", norm="eval")
    assert_same_update(run_atss(atss, "single", accumulate=4, norm="eval"), whole, atss[1]["params"])


def test_a_batch_that_does_not_divide_is_named():
    with pytest.raises(parallel.ParallelError, match=r"config\.data\.batch_size=12 is not a multiple of 8 devices"):
        parallel.make("pmap", 12)
    with pytest.raises(parallel.ParallelError, match=r"config\.optim\.accumulate=4"):
        parallel.make("jit", 16, 4)
    with pytest.raises(parallel.ParallelError, match=r"config\.run\.parallel"):
        parallel.make("shards", 16)
    for kind, shard_state in (("pmap", 2), ("jit", 3)):
        with pytest.raises(parallel.ParallelError, match=rf"config\.run\.shard_state is {shard_state}; that needs"):
            parallel.make(kind, 16, 1, shard_state)
    parallel.make("single", 12)


def test_a_divided_state_stays_divided(variables):
    devices = parallel.make("jit", 8, 1, 4)
    model = TinyDetector()
    parameters = steps.survey(model, (64, 64))
    optimizer = optim.make_optimizer(OPTIM, 10, parameters)
    state = devices.replicate(steps.create_state(parameters, optimizer, variables, ema=OPTIM.ema))
    step = devices.train_step(
        steps.make_train_step(model, optimizer, optim.make_schedule(OPTIM, 10), parameters, ema=OPTIM.ema)
    )
    after, _ = step(state, devices.put(make_batch(8)))
    for leaf in jax.tree.leaves(after):
        fits = any(size and size % 4 == 0 for size in leaf.shape)
        held = sum(shard.data.size for shard in leaf.addressable_shards)
        assert held == leaf.size * (2 if fits else 8)  # 2 x 4 devices: two copies of each quarter
    assert any(leaf.size > 4 and not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(after))


@pytest.mark.parametrize(
    ("kind", "shard_state"), [("pmap", 1), ("jit", 1), pytest.param("jit", 4, marks=pytest.mark.long)]
)
def test_seeds_share_a_program_that_draws_as_one_with_the_seed_in_it(kind, shard_state, variables):
    devices = parallel.make(kind, 8, 1, shard_state)
    model = TinyDetector(axis_name=devices.axis_name, dropout=0.5)
    parameters = steps.survey(model, (64, 64))
    optimizer, schedule = optim.make_optimizer(OPTIM, 10, parameters), optim.make_schedule(OPTIM, 10)
    step = steps.make_train_step(model, optimizer, schedule, parameters, axis_name=devices.axis_name, ema=OPTIM.ema)
    traced = []

    def counted(state, batch):
        traced.append(kind)
        return step(state, batch)

    shared = devices.train_step(counted)
    held = devices.train_step(lambda state, batch: step(replace(state, seed=np.uint32(5)), batch))
    batch = devices.put(make_batch(8))

    def after(program, seed):
        state = steps.create_state(parameters, optimizer, variables, seed, ema=OPTIM.ema)
        return leaves(jax.tree.map(devices.unreplicate, program(devices.replicate(state), batch)))

    first, found, wanted = after(shared, 0), after(shared, 5), after(held, 5)
    for name, value in wanted.items():  # devices add up in any order
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
    assert any((first[name] != value).any() for name, value in found.items() if name.endswith("loss"))
    assert len(traced) == 1


@pytest.mark.parametrize("kind", ["pmap", "jit", "single"])
def test_replicate_round_trip_and_no_alias(kind):
    devices = parallel.make(kind, 8)
    tree = {"a": np.arange(3, dtype=np.float32), "b": np.int32(7)}
    placed = devices.replicate(tree)
    back = devices.unreplicate(placed)
    np.testing.assert_array_equal(back["a"], tree["a"])
    assert back["b"] == 7
    back["a"][0] = 100  # a copy: the device's own must not change
    assert devices.unreplicate(placed)["a"][0] == 0


@pytest.mark.parametrize("size", [8, 5])
def test_detect_on_all_devices_is_detect_on_one(size, variables):
    detect = steps.make_detect(TinyDetector())
    batch = make_batch(size)
    sizes = batch.ground_truth.sizes
    found = parallel.map_detect(detect)(parallel.local_variables(variables), batch.images, sizes)
    wanted = jax.jit(detect)(variables, batch.images, sizes)
    assert leaves(found).keys() == leaves(wanted).keys()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_prefetch_keeps_order_and_reads_one_ahead():
    read = []

    def source():
        for i in range(5):
            read.append(i)
            yield i

    items = parallel.prefetch(source(), lambda x: x * 10)
    assert next(items) == 0
    assert read == [0, 1]
    assert list(items) == [10, 20, 30, 40]
