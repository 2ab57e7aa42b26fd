"""The train step: what it changes, what it must not, and what it reports."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dyhead_jax import config as configs
from dyhead_jax.training import optim, steps
from tests import tiny_detector
from tests.tiny_detector import TinyDetector, leaves, make_batch, max_relative_difference


def setup(optim_config, *, dropout=0.0, seed=0, **options):
    model = TinyDetector(dropout=dropout, batch_norm=options.pop("batch_norm", True))
    parameters = steps.survey(model, (64, 64))
    optimizer, schedule = optim.make_optimizer(optim_config, 10, parameters), optim.make_schedule(optim_config, 10)
    variables = steps.jit_once(lambda key: steps.init_variables(model, key, tiny_detector.CANVAS))(jax.random.key(0))
    state = steps.create_state(parameters, optimizer, variables, seed, ema=optim_config.ema)
    step = steps.make_train_step(model, optimizer, schedule, parameters, ema=optim_config.ema, **options)
    return state, jax.jit(step)


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_stay_to_the_bit(name):
    state, step = setup(configs.OptimConfig(name=name, learning_rate=0.1, weight_decay=0.5, warmup_steps=0, ema=0.5))
    stem = state.params["backbone"]["stem"]
    state = state.replace(
        params=optim.merge(state.params, {"backbone": {"stem": {**stem, "bias": -0.0 * stem["bias"]}}})
    )
    state = state.replace(average={"params": state.params, "batch_stats": state.batch_stats})
    after = state
    for i in range(3):
        after, _ = step(after, make_batch(4, i))
    assert int(after.step) == 3
    averaged = leaves(after.average["params"])
    for key, leaf in leaves(state.params).items():
        frozen = key.startswith("backbone/stem")
        assert (leaf.tobytes() == leaves(after.params)[key].tobytes()) == frozen, key
        assert np.array_equal(leaf, averaged[key]) == frozen, key


def test_metrics_say_what_happened():
    config = configs.OptimConfig(
        learning_rate=0.1, warmup_steps=4, warmup_start=0.0, clip_norm=1e-3, schedule="constant"
    )
    state, step = setup(config)
    batch = make_batch(4)
    _, metrics = step(state, batch)
    assert metrics.keys() == {"loss", "loss_box", "loss_class", "lr", "grad_norm"}
    np.testing.assert_allclose(metrics["loss"], metrics["loss_box"] + metrics["loss_class"], rtol=1e-6)
    assert float(metrics["lr"]) == 0.0

    def objective(trained):
        _, frozen = optim.partition(state.params, TinyDetector().is_frozen)
        variables = {"params": optim.merge(trained, frozen), "batch_stats": state.batch_stats}
        losses, _ = TinyDetector().apply(
            variables, batch.images, batch.ground_truth, True, method="losses", mutable=["batch_stats"]
        )
        return sum(losses.values())

    trained, _ = optim.partition(state.params, TinyDetector().is_frozen)
    norm = optax.tree.norm(jax.jit(jax.grad(objective))(trained))
    np.testing.assert_allclose(metrics["grad_norm"], norm, rtol=1e-4)  # before clipping


def test_the_average_warms_up():
    state, step = setup(configs.OptimConfig(learning_rate=0.1, warmup_steps=0, ema=0.15))
    wanted = jax.tree.map(lambda x: np.asarray(x, np.float64), state.params)
    for i, decay in enumerate([0.1, 0.15, 0.15]):  # min(0.15, (1 + t) / (10 + t))
        state, _ = step(state, make_batch(4, i))
        wanted = jax.tree.map(lambda a, x, d=decay: d * a + (1 - d) * np.asarray(x, np.float64), wanted, state.params)
    assert max_relative_difference(state.average["params"], wanted) < 1e-5
    assert state.variables() is state.average
    assert max_relative_difference(state.average["batch_stats"], state.batch_stats) > 1e-4


def test_random_numbers_follow_from_seed_and_step():
    config = configs.OptimConfig(learning_rate=0.0001, warmup_steps=0)
    state, step = setup(config, dropout=0.5)
    batch = make_batch(4)
    _, first = step(state, batch)
    _, again = step(state, batch)
    _, later = step(state.replace(step=jnp.int32(1)), batch)
    _, other = step(state.replace(seed=jnp.uint32(1)), batch)
    assert float(first["loss"]) == float(again["loss"])
    assert float(first["loss"]) != float(later["loss"])
    assert float(first["loss"]) != float(other["loss"])


@pytest.mark.parametrize("accumulate", [1, 2])
def test_all_seeds_share_a_program_that_draws_as_one_with_the_seed_in_it(accumulate):
    config = configs.OptimConfig(learning_rate=0.1, warmup_steps=0)
    state, step = setup(config, dropout=0.5, accumulate=accumulate)
    batch, seen = make_batch(4), set()
    for seed in (0, 2**32 - 1):
        held = jax.jit(lambda state, batch, seed=seed: step(state.replace(seed=jnp.uint32(seed)), batch))
        after, metrics = step(state.replace(seed=jnp.uint32(seed)), batch)
        wanted, wanted_metrics = held(state, batch)
        assert int(after.seed) == seed
        for name, value in leaves((wanted, wanted_metrics)).items():
            np.testing.assert_array_equal(leaves((after, metrics))[name], value, err_msg=name)
        seen.add(float(metrics["loss"]))
    assert len(seen) == 2
    assert step._cache_size() == 1


def test_micro_batches_share_the_normaliser_of_the_whole_batch():
    """Images with 0 to 3 boxes: a mean of losses that each micro-batch normalised alone would be another one."""
    config = configs.OptimConfig(learning_rate=0.1, warmup_steps=0)
    batch = make_batch(8)
    counts = np.asarray(steps.split_batch(batch, 4).ground_truth.mask).sum((1, 2))
    assert len(set(counts.tolist())) > 1
    state, whole = setup(config, batch_norm=False)
    _, parts = setup(config, batch_norm=False, accumulate=4)
    after, metrics = whole(state, batch)
    after_parts, metrics_parts = parts(state, batch)
    assert max_relative_difference(metrics_parts, metrics) < 1e-5
    assert max_relative_difference(after_parts.params, after.params) < 1e-5
    assert max_relative_difference(after.params, state.params) > 1e-3


def test_a_state_stands_still_at_its_first_failure():
    state, step = setup(configs.OptimConfig(learning_rate=0.05, warmup_steps=0, ema=0.9))
    good = make_batch(8)
    first, _ = step(state, good)
    truth = good.ground_truth
    bad = good.replace(
        ground_truth=truth.replace(boxes=np.full_like(truth.boxes, np.nan), mask=np.ones_like(truth.mask))
    )
    failed, metrics = step(first, bad)
    later, _ = step(step(failed, good)[0], bad)
    assert not np.isfinite(metrics["loss"])
    assert int(failed.step) == int(later.step) == -2
    for name, value in leaves(first).items():
        np.testing.assert_array_equal(leaves(failed.before_failure())[name], value, err_msg=name)
        np.testing.assert_array_equal(leaves(later.before_failure())[name], value, err_msg=name)
    on, _ = step(later.before_failure(), good)
    assert int(on.step) == 2


def test_a_batch_is_split_into_every_kth_image():
    batch = make_batch(6)
    parts = steps.split_batch(batch, 3)
    assert parts.images.shape == (3, 2, *tiny_detector.CANVAS, 3)
    np.testing.assert_array_equal(parts.images[1], batch.images[1::3])
    np.testing.assert_array_equal(parts.ground_truth.boxes[2], batch.ground_truth.boxes[2::3])
    with pytest.raises(ValueError, match=r"config\.optim\.accumulate=4"):
        steps.split_batch(batch, 4)


def test_detect_is_the_models_own():
    model = TinyDetector()
    variables = steps.jit_once(lambda key: steps.init_variables(model, key, tiny_detector.CANVAS))(jax.random.key(0))
    batch = make_batch(2)
    found = jax.jit(steps.make_detect(model))(variables, batch.images, batch.ground_truth.sizes)
    assert found.boxes.shape == (2, 4, 4)
    assert found.scores.shape == found.labels.shape == (2, 4)
