"""Schedules by value, optimisers against plain NumPy with torch's semantics, masks and frozen parameters by name."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dyhead_jax.config import OptimConfig
from dyhead_jax.training import optim
from dyhead_jax.training.parameters import Parameters

PARAMS = {
    "backbone": {"conv": {"kernel": 0}, "bn1": {"scale": 0, "bias": 0}},
    "dyhead": {"GroupNorm_0": {"scale": 0, "bias": 0}},
    "predictor": {"kernel": 0, "bias": 0},
}
PARAMETERS = Parameters(
    shapes={"params": PARAMS},
    offsets=frozenset(),
    positions=frozenset(),
    undecayed=frozenset(),
    frozen=frozenset(),
    norms=frozenset(
        {
            ("backbone", "bn1", "scale"),
            ("backbone", "bn1", "bias"),
            ("dyhead", "GroupNorm_0", "scale"),
            ("dyhead", "GroupNorm_0", "bias"),
        }
    ),
    classes={},
)


def test_a_longer_schedule_says_what_becomes_of_the_rate():
    rates = OptimConfig(learning_rate=0.1, warmup_steps=0, schedule="cosine")
    text = optim.describe_longer(rates, 100, 200, 100)
    assert text.startswith("200 steps in place of 100: the cosine schedule now covers 200 steps")
    assert "at step 100 is 0.05 (before 0)" in text
    rates.schedule = "constant"
    assert "nothing else changes" in optim.describe_longer(rates, 100, 200, 100)


def filled(seed):
    draw = np.random.default_rng(seed)
    return jax.tree.map(lambda _: draw.normal(size=(3, 2)).astype(np.float32), PARAMS)


def rates(config, steps):
    schedule = jax.jit(optim.make_schedule(config, steps))
    return np.array([schedule(step) for step in range(steps)])


def test_step_schedule_with_warmup():
    config = OptimConfig(
        learning_rate=0.02, schedule="step", milestones=(8 / 12, 11 / 12), warmup_steps=4, warmup_start=0.25
    )
    found = rates(config, 24)
    np.testing.assert_allclose(found[:5], np.array([0.25, 0.4375, 0.625, 0.8125, 1.0]) * 0.02, rtol=1e-6)
    np.testing.assert_allclose(found[[15, 16, 21, 22, 23]], np.array([1, 0.1, 0.1, 0.01, 0.01]) * 0.02, rtol=1e-6)


def test_milestones_are_those_of_the_papers_schedule():
    schedule = optim.make_schedule(OptimConfig(warmup_steps=0), 90_000)
    at = [59_999, 60_000, 82_499, 82_500]
    np.testing.assert_allclose([schedule(s) for s in at], [0.01, 0.001, 0.001, 0.0001], rtol=1e-6)


def test_cosine_and_constant_schedules():
    config = OptimConfig(learning_rate=3.0, schedule="cosine", warmup_steps=0)
    wanted = [1.5 * (1 + math.cos(math.pi * step / 10)) for step in range(10)]
    np.testing.assert_allclose(rates(config, 10), wanted, rtol=1e-5)
    config = OptimConfig(learning_rate=3.0, schedule="constant", warmup_steps=0)
    np.testing.assert_allclose(rates(config, 10), 3.0, rtol=1e-6)


def updates(config, steps=20, count=5):
    """Parameters after each of `count` updates with random gradients."""
    optimizer = optim.make_optimizer(config, steps, PARAMETERS)
    params, history = filled(0), []
    state = optimizer.init(params)

    @jax.jit
    def update(params, state, grads):
        changes, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, changes), state

    for i in range(count):
        params, state = update(params, state, filled(i + 1))
        history.append(params)
    return history


def reference(config, steps=20, count=5):
    """The same in NumPy, float64, after torch.optim.SGD, AdamW and clip_grad_norm_."""
    schedule = optim.make_schedule(config, steps)
    flat = {jax.tree_util.keystr(path): x for path, x in jax.tree_util.tree_leaves_with_path(filled(0))}
    params = {k: v.astype(np.float64) for k, v in flat.items()}
    first = {k: np.zeros_like(v) for k, v in params.items()}
    second = {k: np.zeros_like(v) for k, v in params.items()}
    history = []
    for i in range(count):
        leaves = jax.tree_util.tree_leaves_with_path(filled(i + 1))
        grads = {jax.tree_util.keystr(path): x.astype(np.float64) for path, x in leaves}
        norm = math.sqrt(sum((g**2).sum() for g in grads.values()))
        if config.clip_norm:
            grads = {k: g * min(1.0, config.clip_norm / norm) for k, g in grads.items()}
        for key, g in grads.items():
            is_norm, is_bias = "orm" in key or "bn1" in key, "bias" in key
            rate = float(schedule(i)) * (config.backbone_rate if "backbone" in key else 1.0)
            rate *= config.bias_rate if is_bias and not is_norm else 1.0
            no_decay = (is_norm and not config.decay_norms) or (is_bias and not config.decay_biases)
            decay = 0.0 if no_decay else config.weight_decay
            if config.name == "sgd":
                first[key] = config.momentum * first[key] + g + decay * params[key]
                params[key] = params[key] - rate * first[key]
            else:
                first[key] = 0.9 * first[key] + 0.1 * g
                second[key] = 0.999 * second[key] + 0.001 * g**2
                adam = first[key] / (1 - 0.9 ** (i + 1)) / (np.sqrt(second[key] / (1 - 0.999 ** (i + 1))) + 1e-8)
                params[key] = params[key] * (1 - rate * decay) - rate * adam
        history.append(dict(params))
    return history


@pytest.mark.parametrize("name", ["sgd", "adamw"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"backbone_rate": 0.1, "decay_norms": False},
        {"clip_norm": 0.5, "decay_biases": False},
        {"bias_rate": 2.0, "backbone_rate": 0.5},
        {"decay_norms": False, "decay_biases": False, "backbone_rate": 0.3, "clip_norm": 2.0},
    ],
)
def test_updates_are_those_of_torch(name, options):
    config = OptimConfig(name=name, learning_rate=0.05, weight_decay=0.2, warmup_steps=3, warmup_start=0.1, **options)
    for found, wanted in zip(updates(config), reference(config), strict=True):
        for path, leaf in jax.tree_util.tree_leaves_with_path(found):
            key = jax.tree_util.keystr(path)
            np.testing.assert_allclose(leaf, wanted[key], rtol=2e-5, atol=1e-6, err_msg=key)


def test_which_parameters_decay():
    cases = {
        ("dyhead", "GroupNorm_0", "scale"): (False, True),
        ("dyhead", "GroupNorm_0", "bias"): (False, False),
        ("backbone", "bn1", "bias"): (False, False),
        ("predictor", "kernel"): (True, True),
        ("predictor", "bias"): (True, False),
    }
    for path, (without_norms, without_biases) in cases.items():
        assert optim.decays(path, OptimConfig(), PARAMETERS)
        assert optim.decays(path, OptimConfig(decay_norms=False), PARAMETERS) == without_norms, path
        assert optim.decays(path, OptimConfig(decay_biases=False), PARAMETERS) == without_biases, path
        assert optim.decays(path, OptimConfig(decay_positions=False), PARAMETERS)
        assert not optim.decays(path, OptimConfig(), dataclasses.replace(PARAMETERS, undecayed=frozenset({path})))


def test_position_tables_may_go_without_decay():
    path = ("backbone", "layer0_0", "attn", "table")
    parameters = dataclasses.replace(PARAMETERS, positions=frozenset({path}))
    assert optim.decays(path, OptimConfig(decay_norms=False, decay_biases=False), parameters)
    assert not optim.decays(path, OptimConfig(decay_positions=False), parameters)


def test_partition_and_merge():
    params = filled(0)
    trained, frozen = optim.partition(params, lambda path: path[0] == "backbone")
    assert trained.keys() == {"dyhead", "predictor"}
    assert frozen.keys() == {"backbone"}
    merged = optim.merge(trained, frozen)
    assert jax.tree.structure(merged) == jax.tree.structure(params)
    state = optim.make_optimizer(OptimConfig(name="adamw"), 10, PARAMETERS).init(trained)
    moments = [leaf for leaf in jax.tree.leaves(state) if jnp.ndim(leaf) > 0]
    assert len(moments) == 2 * len(jax.tree.leaves(trained))  # none for the frozen ones
