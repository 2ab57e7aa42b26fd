"""The train step and the detect step, as one device sees them; `parallel.py` maps them over devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from dyhead_jax.training import optim
from dyhead_jax.training import parameters as model_parameters
from dyhead_jax.training.parameters import Parameters
from dyhead_jax.types import Batch, Detections

Metrics = dict[str, jax.Array]
TrainStep = Callable[["TrainState", Batch], tuple["TrainState", Metrics]]


@struct.dataclass
class TrainState:
    """Everything that a step changes.

    step: () int32, the number of steps done. After n of them and one whose loss or gradient is not finite it is -1 - n,
    and all else stays as it was before that one, whatever steps follow (see `before_failure`). params, batch_stats: the
    model's variables (batch_stats {} where it has none). opt_state: of the trained parameters only. average: {"params",
    "batch_stats"} averaged over steps, or None.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: Any
    average: Any = None

    def variables(self) -> dict[str, Any]:
        """The variables for evaluation: the average where there is one."""
        return self.average if self.average is not None else {"params": self.params, "batch_stats": self.batch_stats}

    def before_failure(self) -> "TrainState":
        """The state from which the step went that was not finite. Of a state that has seen such a step only."""
        return dataclasses.replace(self, step=-1 - self.step)


def jit_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """`jax.jit` for a program that runs once, such as an `init`: on a CPU it is compiled without LLVM's optimisation,
    which takes several times longer than it saves there."""
    options = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else None
    return jax.jit(function, compiler_options=options)


def init_variables(
    model: Any, key: jax.Array, canvas: tuple[int, int], given: dict[str, Any] | None = None
) -> dict[str, Any]:
    """{"params", "batch_stats"} of a detector with random weights; batch_stats is {} where it has none.

    canvas: (height, width) of some image; the weights do not depend on it. given: a part of the same tree, to be kept.
    To be called inside `jit_once` or `jax.eval_shape`.
    """
    height, width = canvas
    sizes = jnp.asarray([canvas], jnp.int32)
    images = jnp.zeros((1, height, width, 3), jnp.uint8)
    # `model.init`, but that variables which are there need no random numbers
    _, variables = model.apply(given or {}, images, sizes, method="detect", mutable=True, rngs={"params": key})
    return {"params": variables["params"], "batch_stats": variables.get("batch_stats", {})}


def survey(model: Any, canvas: tuple[int, int]) -> Parameters:
    """The parameters of a detector; canvas as in `init_variables`."""
    return model_parameters.survey(model, lambda: init_variables(model, jax.random.key(0), canvas))


def create_state(
    parameters: Parameters, optimizer: optax.GradientTransformation, variables: Any, *, ema: float = 0.0
) -> TrainState:
    """The state before the first step. parameters: of the model; variables: as `init_variables` gives them; ema: 0 is
    off."""
    params, batch_stats = variables["params"], variables["batch_stats"]
    trained, _ = optim.partition(params, parameters.is_frozen)
    average = {"params": params, "batch_stats": batch_stats} if ema > 0 else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=batch_stats,
        opt_state=optimizer.init(trained),
        average=average,
    )


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule,
    parameters: Parameters,
    *,
    seed: int = 0,
    axis_name: str | None = None,
    accumulate: int = 1,
    ema: float = 0.0,
) -> TrainStep:
    """The function (state, batch) -> (state, metrics).

    parameters: of the model (`survey`). axis_name: the mapped axis over whose devices gradients and losses are
    averaged, the model's own `axis_name`; None where the step sees the whole batch. accumulate: micro-batches that the
    (device's) batch is divided into, one forward and backward each. Losses are divided by what the whole batch counts,
    such as its positives: with more than one micro-batch the step first asks the model for the normalizers of each
    (`count`) and gives their means to `losses`, so that, statistics of batch norm apart, the update is that of the
    whole batch. ema: decay of the average, with the usual warm-up min(ema, (1 + t) / (10 + t)) at step t.
    Metrics, scalars of float32 or wider, equal on all devices: loss, loss_<term> for each term of the model, lr, and
    grad_norm before clipping. Random numbers depend on the seed, the step, the device and the micro-batch only.
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
        """given: `normalizers`, where they are not those of the batch."""

        def objective(trained: Any) -> Any:
            losses, changed = apply("losses", optim.merge(trained, frozen), batch_stats, batch, key, **given)
            losses = {name: value.astype(jnp.promote_types(value.dtype, jnp.float32)) for name, value in losses.items()}
            return sum(losses.values()), (losses, changed.get("batch_stats", batch_stats))

        grads, (losses, batch_stats) = jax.grad(objective, has_aux=True)(trained)
        return grads, losses, batch_stats

    def accumulated(trained: Any, frozen: Any, batch_stats: Any, batch: Batch, key: jax.Array) -> Any:
        parts = (jnp.arange(accumulate), split_batch(batch, accumulate))

        def count(_: None, part: Any) -> Any:  # the compiler drops all of the network that the counts do not depend on
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
        key = jax.random.fold_in(jax.random.key(seed), state.step)
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
                # What the step hands through (frozen weights, their statistics) needs no kernel to stay as it is.
                return mean if new is old else mean + ((1 - decay) * (new - mean)).astype(mean.dtype)

            average = jax.tree.map(blend, average, before, now)
        metrics = {
            "loss": jnp.asarray(sum(losses.values())),
            **{f"loss_{name.removeprefix('loss_')}": value for name, value in losses.items()},
            "lr": schedule(state.step),
            "grad_norm": optax.tree.norm(grads),
        }
        after = TrainState(
            step=state.step + 1, params=params, batch_stats=batch_stats, opt_state=opt_state, average=average
        )
        # The host looks a step late: until it does, a state stands still at its first failure, so that it can be saved.
        good = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["grad_norm"]) & (state.step >= 0)
        stopped = dataclasses.replace(state, step=jnp.minimum(state.step, -1 - state.step))
        return jax.tree.map(lambda new, old: jnp.where(good, new, old), after, stopped), metrics

    return step_fn


def split_batch(batch: Batch, parts: int) -> Batch:
    """(b, ...) arrays to (parts, b / parts, ...): part k has the images k, k + parts, ..., so that over a sharded b no
    image changes its device. Raises ValueError when b is not a multiple of parts."""
    size = batch.images.shape[0]
    if size % parts:
        raise ValueError(f"a device's {size} images do not divide into config.optim.accumulate={parts} micro-batches")
    return jax.tree.map(lambda x: x.reshape(size // parts, parts, *x.shape[1:]).swapaxes(0, 1), batch)


def make_detect(model: Any) -> Callable[[Any, jax.Array, jax.Array], Detections]:
    """The function (variables, images (b, h, w, 3) uint8, sizes (b, 2) height and width) -> Detections."""

    def detect(variables: Any, images: jax.Array, sizes: jax.Array) -> Detections:
        return model.apply(variables, images, sizes, method="detect")

    return detect
