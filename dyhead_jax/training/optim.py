"""Learning-rate schedules and optimisers in Optax, with the semantics of PyTorch.

SGD: the decay is added to the gradient before the momentum, `v = m v + (g + d p)`, `p = p - lr v`. AdamW: decoupled
decay, `p = p - lr (adam(g) + d p)` with betas (0.9, 0.999) and epsilon 1e-8. Both equal `torch.optim` up to rounding.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import traverse_util

from dyhead_jax.config import OptimConfig
from dyhead_jax.config.training_choices import Optimizer, Schedule
from dyhead_jax.training.parameters import Parameters, Path


def scaled(optim: OptimConfig, batch_size: int) -> OptimConfig:
    """`optim` with the learning rate scaled by batch_size / base_batch_size, if `base_batch_size` is set (Goyal et al.,
    "Accurate, Large Minibatch SGD", 2017); warm-up and schedule do not change."""
    if not optim.base_batch_size:
        return optim
    return dataclasses.replace(optim, learning_rate=optim.learning_rate * batch_size / optim.base_batch_size)


def make_schedule(optim: OptimConfig, steps: int) -> optax.Schedule:
    """The learning rate, a scalar, as a function of the step 0, 1, ... `steps` - 1.

    As in mmdetection and Detectron2 it is the product learning_rate * decay(step) * warm-up(step). The decay is 0.1 to
    the power of the number of passed milestones, half a cosine over all steps, or 1; the warm-up rises linearly from
    `warmup_start` at step 0 to 1 at step `warmup_steps`.
    """
    Schedule.parse("config.optim.schedule", optim.schedule)
    boundaries = [round(fraction * steps) for fraction in optim.milestones]

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, float)  # float32, or float64 with x64 enabled
        rate = jnp.asarray(optim.learning_rate, float)
        if optim.schedule == Schedule.STEP:
            for boundary in boundaries:
                rate = rate * jnp.where(step >= boundary, 0.1, 1.0)
        elif optim.schedule == Schedule.COSINE:
            rate = rate * 0.5 * (1 + jnp.cos(jnp.pi * jnp.minimum(step / steps, 1.0)))
        if optim.warmup_steps > 0:
            done = jnp.minimum(step / optim.warmup_steps, 1.0)
            rate = rate * (optim.warmup_start + (1 - optim.warmup_start) * done)
        return rate

    return schedule


def describe_longer(optim: OptimConfig, before: int, now: int, step: int) -> str:
    """What becomes of the learning rate where a run of `before` steps, now at `step`, is trained for `now` steps."""
    old, new = (float(np.asarray(make_schedule(optim, steps)(step))) for steps in (before, now))
    if old == new and optim.schedule == Schedule.CONSTANT:
        return f"{now} steps in place of {before}; the learning rate is constant, so nothing else changes"
    return (
        f"{now} steps in place of {before}: the {optim.schedule} schedule now covers {now} steps, so the learning rate"
        f" at step {step} is {new:.3g} (before {old:.3g}); optimiser, averages and data go on as they were"
    )


def make_optimizer(optim: OptimConfig, steps: int, parameters: Parameters) -> optax.GradientTransformation:
    """The optimiser of the trained parameters; frozen ones are split off by `partition` first.

    In this order: clipping by the global norm, SGD or AdamW with masked decay, the schedule, the `multipliers`.
    """
    Optimizer.parse("config.optim.name", optim.name)
    parts = []
    if optim.clip_norm > 0:
        parts.append(optax.clip_by_global_norm(optim.clip_norm))
    decay = optax.add_decayed_weights(optim.weight_decay, mask=_by_path(lambda path: decays(path, optim, parameters)))
    if optim.name == Optimizer.SGD:
        parts += [decay, optax.trace(decay=optim.momentum)]
    else:
        parts += [optax.scale_by_adam(), decay]
    parts.append(optax.scale_by_learning_rate(make_schedule(optim, steps)))
    for rate, rule in multipliers(optim, parameters).values():
        if rate != 1:
            parts.append(optax.masked(optax.scale(rate), _by_path(rule)))
    return optax.chain(*parts)


def multipliers(optim: OptimConfig, parameters: Parameters) -> dict[str, tuple[float, Callable[[Path], bool]]]:
    """For each field that multiplies the learning rate of some parameters: its value, and which parameters."""
    return {
        "backbone_rate": (optim.backbone_rate, lambda path: path[0] == "backbone"),
        "offset_rate": (optim.offset_rate, lambda path: path in parameters.offsets),
        "bias_rate": (optim.bias_rate, lambda path: path[-1] == "bias" and path not in parameters.norms),
    }


def decays(path: Path, optim: OptimConfig, parameters: Parameters) -> bool:
    """Whether weight decay applies to the parameter at `path`. A bias is a leaf named "bias"."""
    if path in parameters.undecayed:
        return False
    if path in parameters.positions:
        return optim.decay_positions
    return (optim.decay_norms or path not in parameters.norms) and (optim.decay_biases or path[-1] != "bias")


def partition(params: Any, is_frozen: Callable[[Path], bool]) -> tuple[Any, Any]:
    """Splits a tree of parameters into two nested dicts (trained, frozen) without common leaves; `merge` undoes it.

    Frozen parameters therefore have no gradient, optimiser state, decay or update; not even the sign of a zero changes.
    """
    flat = traverse_util.flatten_dict(params)
    frozen = {path for path in flat if is_frozen(path)}
    return (
        traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path not in frozen}),
        traverse_util.unflatten_dict({path: leaf for path, leaf in flat.items() if path in frozen}),
    )


def merge(trained: Any, frozen: Any) -> Any:
    """The tree that `partition` split into these two."""
    return traverse_util.unflatten_dict({**traverse_util.flatten_dict(trained), **traverse_util.flatten_dict(frozen)})


def _by_path(rule: Callable[[Path], bool]) -> Callable[[Any], Any]:
    def mask(params: Any) -> Any:
        return traverse_util.path_aware_map(lambda path, _: rule(tuple(map(str, path))), params)

    return mask
