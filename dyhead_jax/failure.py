"""Saves a training step whose loss or gradient was not finite, and runs it again.

    <workdir>/failures/step_<n>/checkpoints/<n - 1>/    the state before the step, and the config
    <workdir>/failures/step_<n>/batch_<i>-of-<p>.npz    the rows of its batch on process i of p, with image ids

python -m dyhead_jax.failure --help
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax import command, detectors
from dyhead_jax.config import from_tree
from dyhead_jax.training import optim, steps
from dyhead_jax.training.checkpoint import CheckpointError, Checkpoints
from dyhead_jax.types import Batch, GroundTruth
from dyhead_jax.weights import npz


class FailureError(ValueError):
    """A dump is missing or incomplete; the message names the folder."""


def save(folder: Path, state: steps.TrainState, meta: dict[str, Any], batch: Batch, image_ids: np.ndarray) -> None:
    """Writes the dump of a step; all processes must call it.

    state: before the step, host arrays; meta: from `checkpoint.make_meta`; batch: the rows of this process, host
    arrays; image_ids: (b,) of these rows.
    """
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, meta)
    truth = batch.ground_truth
    arrays = {"images": batch.images, "image_ids": image_ids, "boxes": truth.boxes, "labels": truth.labels}
    arrays |= {"mask": truth.mask, "crowd": truth.crowd}
    if truth.sizes is not None:
        arrays["sizes"] = truth.sizes
    name = f"batch_{jax.process_index()}-of-{jax.process_count()}.npz"
    np.savez_compressed(folder / name, **{key: np.asarray(value) for key, value in arrays.items()})  # type: ignore[arg-type]


def load_batch(folder: Path) -> tuple[Batch, np.ndarray]:
    """The whole batch (B, ...) and its image ids (B,). Raises FailureError, which names the folder or file."""
    names = {path: re.fullmatch(r"batch_(\d+)-of-(\d+)", path.stem) for path in folder.glob("batch_*-of-*.npz")}
    of_process = {int(name[1]): path for path, name in names.items() if name}
    counts = {int(name[2]) for name in names.values() if name}
    if counts != {len(of_process)} or set(of_process) != set(range(len(of_process))):
        raise FailureError(f"{folder} has {len(of_process)} batch files, not one from each process")
    parts = [_read_part(of_process[process]) for process in range(len(of_process))]
    try:
        whole = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    except (KeyError, ValueError) as error:
        raise FailureError(f"{folder}: its batch files do not fit each other") from error
    truth: Any = {key: whole.get(key) for key in ("boxes", "labels", "mask", "crowd", "sizes")}
    images: Any = whole["images"]
    return Batch(images=images, ground_truth=GroundTruth(**truth)), whole["image_ids"]


def _read_part(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one file, each of them with the axes of a batch."""
    part = npz.read(path)
    axes = {"images": 4, "image_ids": 1, "boxes": 3, "labels": 2, "mask": 2, "crowd": 2}
    for name, count in axes.items():
        if name not in part or part[name].ndim != count or len(part[name]) != len(part["images"]):
            raise FailureError(f"{path} has no {name} with {count} axes, one row an image")
    kinds = {"images": "u", "image_ids": "i", "boxes": "f", "labels": "i", "mask": "b", "crowd": "b", "sizes": "i"}
    for name, kind in kinds.items():
        if name in part and part[name].dtype.kind != kind:
            raise FailureError(f"{path}: {name} are {part[name].dtype}")
    count = len(part["images"])
    rows = part["boxes"].shape[:2]
    shapes = {"images": (*part["images"].shape[:3], 3), "boxes": (*rows, 4), "sizes": (count, 2)}
    shapes |= dict.fromkeys(("labels", "mask", "crowd"), rows)
    for name, shape in shapes.items():
        if name in part and part[name].shape != shape:
            raise FailureError(f"{path}: {name} have the shape {part[name].shape}, not {shape}")
    return part


def replay(folder: Path, trust: Sequence[str] = ()) -> tuple[int, dict[str, float], dict[int, dict[str, float]]]:
    """Runs the step again, on one device. trust: packages beside this one whose classes its config may name.

    Returns the number of the step, its metrics, and by image id the losses of each image that has a loss that is not
    finite on its own. Raises FailureError or CheckpointError, which name the folder.
    """
    batch, image_ids = load_batch(folder)
    with Checkpoints(folder / "checkpoints", read_only=True) as checkpoints:
        done = checkpoints.latest()
        if done is None:
            raise CheckpointError(f"{folder / 'checkpoints'} has no complete checkpoint")
        where = f"{folder / 'checkpoints' / str(done)}: meta"
        config = from_tree(checkpoints.meta(done).get("config"), where, trust=trust)
        model = detectors.build(config.model)
        parameters = steps.survey(model, config.data.canvases[0])
        rates = optim.scaled(config.optim, config.data.batch_size)
        optimizer = optim.make_optimizer(rates, config.run.steps, parameters)
        like = steps.abstract_state(parameters, optimizer, config.seed, ema=config.optim.ema)
        state, _ = checkpoints.restore(done, like)
    step = jax.jit(
        steps.make_train_step(
            model,
            optimizer,
            optim.make_schedule(rates, config.run.steps),
            parameters,
            accumulate=config.optim.accumulate,
            ema=config.optim.ema,
        )
    )
    _, metrics = step(state, batch)

    @jax.jit
    def losses_of(image: Batch) -> Any:
        key = jax.random.key(config.seed)
        variables = {"params": state.params, "batch_stats": state.batch_stats}
        losses, _ = model.apply(
            variables,
            image.images,
            image.ground_truth,
            train=True,
            method="losses",
            mutable=["batch_stats"],
            rngs={"dropout": key, "sampling": key},
        )
        return losses

    bad = {}
    for row, image_id in enumerate(image_ids.tolist()):
        losses = _floats(losses_of(jax.tree.map(lambda x, row=row: x[row : row + 1], batch)))
        if not np.isfinite(list(losses.values())).all():
            bad[image_id] = losses
    return done + 1, _floats(metrics), bad


def _floats(values: Any) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.failure",
        "Runs a training step whose loss or gradient was not finite again, on one device, and lists the images that\n"
        "have such a loss on their own.",
        "  python -m dyhead_jax.failure runs/a/failures/step_1200\n"
        "  JAX_DEBUG_NANS=1 python -m dyhead_jax.failure --debug runs/a/failures/step_1200    the operation at fault",
    )
    parser.add_argument("folder", type=Path, help="the dump: <workdir>/failures/step_<n>")
    command.add_trust(parser)
    options = command.parse(parser)
    command.no_overrides(options)
    folder = options.folder
    if not folder.is_dir():
        raise FailureError(f"{folder}: no such folder")
    step, metrics, bad = replay(folder, options.trust)
    print(f"step {step}: " + "  ".join(f"{name} {value:.6g}" for name, value in metrics.items()))
    for image_id, losses in bad.items():
        print(f"image {image_id} alone: " + "  ".join(f"{name} {value:.6g}" for name, value in losses.items()))
    if not bad:
        print("no image alone has a loss that is not finite")


if __name__ == "__main__":
    command.run(_main)
