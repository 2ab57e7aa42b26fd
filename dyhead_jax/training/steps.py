"""The train step and the detect step for one device; `parallel.py` maps them over devices."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct

from dyhead_jax.training import optim
from dyhead_jax.training.parameters import Parameters, trace_parameters
from dyhead_jax.types import Batch, Detections

Metrics = dict[str, jax.Array]
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


@struct.dataclass
class TrainState:
    """Everything that a step changes, and the seed, which none changes.

    step: () int32, the number of steps done. If the loss or gradient of a step is not finite after n good steps, it
    becomes -1 - n and the rest of the state stays frozen as it was before that step (see `before_failure`).
    params, batch_stats: the model's variables (batch_stats is {} if it has none). opt_state: of the trained parameters
    only. average: {"params", "batch_stats"} averaged over steps, or None. seed: () uint32, config.seed: an input of the
    compiled step, so that runs with other seeds share it. Checkpoints do not hold it; it is in their config.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None
    seed: Any = np.uint32(0)

    def variables(self) -> dict[str, Any]:
        """The variables for evaluation: the average if there is one."""
        return self.average if self.average is not None else {"params": self.params, "batch_stats": self.batch_stats}

    def before_failure(self) -> "TrainState":
        """The state before the step that was not finite; only valid after such a step."""
        return dataclasses.replace(self, step=-1 - self.step)


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a program that runs once, such as an `init`. On a CPU it skips LLVM's optimisation, which takes
    several times longer than it saves."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def init_variables(
    model: Any, key: jax.Array, canvas: tuple[int, int], given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """{"params", "batch_stats"} of a detector with random weights; batch_stats is {} if it has none.

    canvas: (height, width) of any image; the weights do not depend on it. given: a part of the same tree, to be kept.
    Call it inside `jit_once` or `jax.eval_shape`.
    """
    height, width = canvas
    sizes = jnp.asarray([canvas], jnp.int32)
    images = jnp.zeros((1, height, width, 3), jnp.uint8)
    # like `model.init`, but draws no random numbers for the given variables
    _, variables = model.apply(given or {}, images, sizes, method="detect", mutable=True, rngs={"params": key})
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def survey(model: Any, canvas: tuple[int, int]) -> Parameters:
    """The parameters of a detector; canvas as in `init_variables`."""
    return trace_parameters(model, lambda: init_variables(model, jax.random.key(0), canvas))


def create_state(
    parameters: Parameters,
    optimizer: optax.GradientTransformation,
    variables: Any,
    seed: int | jax.Array | np.uint32 = 0,
    *,
    ema: float = 0.0,
) -> TrainState:
    """The state before the first step.

    parameters: from `survey`; variables: from `init_variables`; seed: of the steps' random numbers, below 2**32; ema: 0
    is off. In a compiled call the seed is to be an argument too, or the program is of that seed alone.
    """
    params, batch_stats = variables["params"], variables["batch_stats"]
    trained, _ = optim.partition(params, parameters.is_frozen)
    average = {"params": params, "batch_stats": batch_stats} if ema > 0 else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(trained),
        average=average,
        seed=jnp.asarray(seed, jnp.uint32),
    )


def abstract_state(
    parameters: Parameters, optimizer: optax.GradientTransformation, seed: int, *, ema: float = 0.0
) -> TrainState:
    """What `Checkpoints.restore` needs of a run: shapes and dtypes of the state of `create_state`, and its seed."""
    shapes = jax.eval_shape(partial(create_state, parameters, optimizer, ema=ema), parameters.shapes)
    return dataclasses.replace(shapes, seed=np.uint32(seed))


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    parameters: Parameters,
    *,
    axis_name: str | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
) -> TrainStep:
    """The function (state, batch) -> (state, metrics).

    parameters: from `survey`. axis_name: the mapped axis over which gradients and losses are averaged, the same as the
    model's `axis_name`; None if the step sees the whole batch. accumulate: number of micro-batches into which the
    device's batch is split, one forward and backward pass each. Losses are divided by counts over the whole batch, such
    as its number of positives: with more than one micro-batch, the step first gets the normalizers of each from the
    model (`count`) and passes their means to `losses`. Except for the statistics of batch norm, the update is then that
    of the whole batch. ema: decay of the average, with the usual warm-up min(ema, (1 + t) / (10 + t)) at step t.
    Metrics are scalars, float32 or wider, equal on all devices: loss, loss_<term> for each term of the model, lr, and
    grad_norm before clipping. Random numbers depend only on the state's seed, the step, the device and the micro-batch.
    """

    def apply(method: str, params: Any, batch_stats: Any, batch: Batch, key: jax.Array, **given: Any) -> Any:
        return model.apply(
            {"params": params, "batch_stats": batch_stats},
            batch.images,
            batch.ground_truth,
            train=True,
            method=method,
            mutable=["batch_stats"],
            rngs={"dropout": key, "sampling": jax.random.fold_in(key, 1)},
            **given,
        )

    def grads_of(trained: Any, frozen: Any, batch_stats: Any, batch: Batch, key: jax.Array, **given: Any) -> Any:
        """given: `normalizers`, unless they are those of `batch` itself."""

        def objective(trained: Any) -> Any:
            losses, changed = apply("losses", optim.merge(trained, frozen), batch_stats, batch, key, **given)
            losses = {name: value.astype(jnp.promote_types(value.dtype, jnp.float32)) for name, value in losses.items()}
            return sum(losses.values()), (losses, changed.get("batch_stats", batch_stats))

        grads, (losses, batch_stats) = jax.grad(objective, has_aux=True)(trained)
        return grads, losses, batch_stats

    def accumulated(trained: Any, frozen: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
        parts = (jnp.arange(accumulate), split_batch(batch, accumulate))

        def count(_: None, part: Any) -> Any:  # the compiler drops the parts of the network that the counts do not need
            number, micro_batch = part
            part_key = jax.random.fold_in(key, number)
            return None, apply("count", optim.merge(trained, frozen), batch_stats, micro_batch, part_key)[0]

        def add_gradients(carry: Any, part: Any) -> Any:
            (total, batch_stats), (number, micro_batch) = carry, part
            part_key = jax.random.fold_in(key, number)
            grads, losses, batch_stats = grads_of(
                trained, frozen, batch_stats, micro_batch, part_key, normalizers=normalizers
            )
            return (jax.tree.map(jnp.add, total, grads), batch_stats), losses

        _, counts = jax.lax.scan(count, None, parts)
        normalizers = jax.tree.map(lambda x: x.mean(0), counts)
        start = (jax.tree.map(jnp.zeros_like, trained), batch_stats)
        (total, batch_stats), losses = jax.lax.scan(add_gradients, start, parts)
        mean = jax.tree.map(lambda g: g / accumulate, total), jax.tree.map(lambda x: x.mean(0), losses)
        return *mean, batch_stats

    def step_fn(state: TrainState, batch: Batch) -> tuple[TrainState, Metrics]:
        trained, frozen = optim.partition(state.params, parameters.is_frozen)
        key = jax.random.fold_in(jax.random.key(state.seed), state.step)
        if axis_name is not None:
            key = jax.random.fold_in(key, jax.lax.axis_index(axis_name))
        gradients = grads_of if accumulate == 1 else accumulated
        grads, losses, batch_stats = gradients(trained, frozen, state.batch_stats, batch, key)
        if axis_name is not None:
            grads, losses = jax.lax.pmean((grads, losses), axis_name)

        updates, opt_state = optimizer.update(grads, state.opt_state, trained)
        params = optim.merge(optax.apply_updates(trained, updates), frozen)
        average = state.average
        if average is not None:
            done = state.step.astype(jnp.float32)
            decay = jnp.minimum(ema, (1 + done) / (10 + done))
            before = {"params": state.params, "batch_stats": state.batch_stats}
            now = {"params": params, "batch_stats": batch_stats}

            def blend(mean: jax.Array, old: jax.Array, new: jax.Array) -> jax.Array:
                # Arrays that the step does not change (frozen weights, their statistics) need no kernel.
                return mean if new is old else mean + ((1 - decay) * (new - mean)).astype(mean.dtype)

            average = jax.tree.map(blend, average, before, now)
        metrics = {
            "loss": jnp.asarray(sum(losses.values())),
            **{f"loss_{name.removeprefix('loss_')}": value for name, value in losses.items()},
            "lr": schedule(state.step),
            "grad_norm": optax.tree.norm(grads),
        }
        after = TrainState(
            step=state.step + 1,
            params=params,
            batch_stats=batch_stats,
            opt_state=opt_state,
            average=average,
            seed=state.seed,
        )
        # The host checks metrics one step late: until then the state stays frozen at the first failure, to be saved.
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]) & (state.step >= 0)
        stopped = dataclasses.replace(state, step=jnp.minimum(state.step, -1 - state.step))
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, stopped), metrics

    return step_fn


def split_batch(batch: Batch, parts: int) -> Batch:
    """Reshapes (b, ...) arrays to (parts, b / parts, ...): part k has the images k, k + parts, ..., so that with a
    sharded b no image moves to another device. Raises ValueError if b is not a multiple of parts."""
    size = batch.images.shape[0]
    if size % parts:
        raise ValueError(f"a device's {size} images cannot be split into config.optim.accumulate={parts} micro-batches")
    return jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def make_detect(model: Any) -> Callable[[Any, jax.Array, jax.Array], Detections]:
    """The function (variables, images (b, h, w, 3) uint8, sizes (b, 2) (height, width)) -> Detections."""

    def detect(variables: Any, images: jax.Array, sizes: jax.Array) -> Detections:
        return model.apply(variables, images, sizes, method="detect")

    return detect
