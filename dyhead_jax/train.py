"""Trains a detector, evaluates it and leaves everything in one folder.

    python -m dyhead_jax.train --config=photos:FOLDER --workdir=runs/mine          your own photographs
    python -m dyhead_jax.train --config=demo_shapes --workdir=runs/short --config.run.steps=100
    python -m dyhead_jax.train --config=demo_shapes --help       all options with value and explanation

On several hosts, run the same command on each, with a shared --workdir:
    python -m dyhead_jax.train ... --distributed=auto            TPU pods, Slurm: the rest is in the environment
    python -m dyhead_jax.train ... --coordinator=HOST:PORT --num_processes=4 --process_id=0   HOST is that of process 0
config.data.batch_size counts the images of all hosts.

After a kill or stop, the same command resumes from the last checkpoint as if nothing had happened; for a finished run
it prints the result again. With a larger config.run.steps a run, finished or not, is trained longer. A folder that
belongs to a run with another config is refused.

The folder then holds
    config.json       the whole config
    metrics.jsonl     one JSON object per line: step, train/loss, train/loss_<term>, train/lr, train/grad_norm,
                      train/images_per_second, train/input_wait (the fraction of the time in which the devices were
                      idle because process 0 was loading; an upper bound), train/boxes and, left out of training,
                      train/boxes_too_small, train/boxes_cut_away, train/boxes_over_max (of process 0, since the start),
                      train/device_bytes (GPUs and TPUs: the most in use at once so far on one device of process 0),
                      eval/AP, eval/AP50, ...
    checkpoints/      for python -m dyhead_jax.evaluate and python -m dyhead_jax.predict
    failures/         all that python -m dyhead_jax.failure needs to rerun a step whose loss was not finite
    tensorboard/, wandb/, mlflow.db, trackers.json      what config.run.tensorboard, wandb and mlflow write
    figures/          curves.png, and held_out.png: held-out images with predicted and true boxes

The last line is AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>. Exit codes: 0 finished; 75 stopped by SIGTERM (on any
host) after saving the current step or evaluation, the same command goes on (SIGTERM in the first seconds, with nothing
to save yet, ends the process at once); 1 an error, or another process ended; 2 a wrong command line; 130 Ctrl-C.
A checkpoint that is damaged is named, and the one before it used. One run at a time may use a folder.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # on a CPU, XLA warns about each program from its cache

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax import command, detectors, failure
from dyhead_jax.config import Config, ConfigError, flags, to_json
from dyhead_jax.data import box_counts, classes, pictures, pipeline
from dyhead_jax.data.source import Split, make_source
from dyhead_jax.evaluation import average_precision, visualize
from dyhead_jax.evaluation.initial_model import first_variables
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.training import distributed, lock, optim, overview, parallel, steps, stored, trackers, workdir
from dyhead_jax.training.checkpoint import Checkpoints, make_meta
from dyhead_jax.training.metrics import Metrics, curves, device_memory, read_metrics
from dyhead_jax.training.profile import Profile
from dyhead_jax.training.progress import Progress


class TrainError(ValueError):
    """Training cannot continue; the message names the step."""


STOPPED = 75  # exit code: EX_TEMPFAIL of sysexits.h, "try again later"


def train(config: Config, folder: Path, trust: Sequence[str] = (), by_number: bool = False) -> int:
    """The whole run, starting from the last checkpoint in the folder if there is one. Returns the exit code.

    trust: packages whose classes the model of config.model.init may name, beside those that the config names.
    by_number: see `classes.order`.
    """
    earlier = workdir.check(folder, config)
    first = distributed.is_first()
    distributed.check_same("the config", hashlib.sha256(to_json(config).encode()).digest())
    line = finished(folder, config.run.steps) if first else None
    if distributed.broadcast(line is not None):
        print(
            f"{folder} is finished; a larger config.run.steps trains it longer, another --workdir starts anew\n{line}"
        )
        return 0
    with lock.held(folder) if first else nullcontext():
        return go_on(config, folder, earlier, trust, by_number)


def go_on(config: Config, folder: Path, earlier: int | None, trust: Sequence[str], by_number: bool) -> int:
    """The steps that are not done. earlier: the number that the run was to have so far; the others as in `train`.
    Returns the exit code."""
    run, total, first = config.run, config.run.steps, distributed.is_first()
    stop = distributed.StopRequest()
    use_compilation_cache(config, folder)
    jax.config.update("jax_debug_nans", run.debug_nans)
    devices = parallel.make(run.parallel, config.data.batch_size, config.optim.accumulate, run.shard_state)
    with distributed.first_before_others():
        train_split, val_split = open_data(config, folder, by_number)
        if first:
            workdir.claim(folder, config)
        elif not (folder / "config.json").exists():
            raise workdir.WorkdirError(f"{folder} of process 0 is not visible to the others; give a shared folder")

    model = detectors.build(config.model, axis_name=devices.axis_name)
    rates = optim.scaled(config.optim, config.data.batch_size)
    single = detectors.build(config.model)  # for one device: initial weights and evaluation
    parameters = steps.survey(single, config.data.canvases[0])
    optimizer = optim.make_optimizer(rates, total, parameters)
    train_step = devices.train_step(
        steps.make_train_step(
            model,
            optimizer,
            optim.make_schedule(rates, total),
            parameters,
            axis_name=devices.axis_name,
            accumulate=config.optim.accumulate,
            ema=config.optim.ema,
        )
    )
    detect = parallel.map_detect(steps.make_detect(single))

    with ExitStack() as stack:
        checkpoints = stack.enter_context(Checkpoints(folder / "checkpoints", max_to_keep=run.max_to_keep))
        latest = distributed.broadcast(-1 if not first or (found := checkpoints.newest_intact()) is None else found)
        start = max(latest, 0)
        if latest >= 0:  # step 0 is written by `dyhead_jax.convert`
            known, where = checkpoints.meta(latest).get("class_names", ()), f"the model in {folder}"
            train_split, lines = classes.matched(train_split, known, where, by_number)
            val_split, _ = classes.matched(val_split, known, where, by_number)
            print(*lines, sep="\n", end="\n" * bool(lines))
        batches = pipeline.train_batches(
            train_split,
            config.data,
            config.seed,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
            start_step=start,
        )
        stack.enter_context(closing(batches))
        if latest >= 0:
            like = steps.abstract_state(parameters, optimizer, config.seed, ema=config.optim.ema)
            state, _ = checkpoints.restore(start, like, batches)
            print(f"going on from step {start}")
            if earlier is not None and total > earlier:
                print(f"note: {optim.describe_longer(rates, earlier, total, start)}")
        else:
            state = steps.jit_once(partial(steps.create_state, parameters, optimizer, ema=config.optim.ema))(
                first_variables(config, single, parameters, train_split.class_names, trust), np.uint32(config.seed)
            )
        overview.describe(parameters, devices, config, begun=latest > 0)
        state = devices.replicate(state)
        metrics = None  # only on process 0
        if first:
            shown = trackers.open_trackers(run, folder, start, json.loads(to_json(config)))
            metrics = Metrics(folder / "metrics.jsonl", resume_step=start, trackers=shown)
            stack.enter_context(metrics)
        progress = Progress(
            total,
            images_per_step=config.data.batch_size,
            start=start,
            log_every=run.log_every,
            terminal=None if first else False,
        )
        stack.enter_context(progress)

        def settle(step: int, values: Any, loaded: pipeline.Loaded, position: dict[str, Any]) -> None:
            """Checks and logs the metrics of a step. The next one is already running, so devices do not wait."""
            scalars = {f"train/{name}": float(value) for name, value in devices.unreplicate(values).items()}
            for name in ("loss", "grad_norm"):
                if not math.isfinite(scalars[f"train/{name}"]):
                    dump = folder / "failures" / f"step_{step}"
                    meta = make_meta(config, train_split.class_names, train_split.category_ids)
                    before = devices.unreplicate(state).before_failure()
                    failure.save(dump, before, meta, loaded.batch, loaded.image_ids)
                    ids = ", ".join(map(str, batches.image_ids(step - 1)))
                    raise TrainError(
                        f"the {name} is {scalars[f'train/{name}']} at step {step}; no checkpoint of it was saved;"
                        f" python -m dyhead_jax.failure {dump} runs it again; images {ids}"
                    )
            progress.update(step, scalars["train/loss"])
            if metrics is not None and (step % run.log_every == 0 or step == total):
                more = progress.speed() | position["boxes"] | device_memory(jax.local_devices())
                metrics.write(step, scalars | {f"train/{name}": value for name, value in more.items()})

        def evaluate_now(step: int) -> dict[str, float]:
            """AP on the held-out images; also written to metrics.jsonl and standard output, with figures."""
            variables = parallel.local_variables(devices.unreplicate(state.variables()))
            scores, results = evaluate_split(
                partial(detect, variables),
                val_split,
                config.data,
                evaluation=config.evaluation if step == total else None,  # several scales are slow
                process_index=jax.process_index(),
                process_count=jax.process_count(),
            )
            scores = {key: scores[key] for key in average_precision.KEYS}
            if metrics is None:
                return scores
            metrics.write(step, {f"eval/{key}": value for key, value in scores.items()})
            figures = folder / "figures"
            figures.mkdir(exist_ok=True)
            curves(metrics.rows, figures / "curves.png")
            if run.figure_images > 0:
                pictures.save(visualize.held_out(val_split, results, count=run.figure_images), figures / "held_out.png")
            print(f"step {step}: {average_precision.ap_line(scores)}", flush=True)
            return scores

        def evaluation_due(step: int) -> bool:
            return step == total or is_due(step, run.eval_every)

        evaluated = metrics is not None and average_precision.scores_at(metrics.rows, start) is not None
        if start and evaluation_due(start) and not distributed.broadcast(evaluated):
            evaluate_now(start)  # its line was lost, or eval_every was changed
        step, pending, position = start, None, batches.get_state()
        ahead = parallel.prefetch(with_position(batches), lambda item: (devices.put(item[0].batch), *item))
        profile = stack.enter_context(Profile(folder / "profile", run.profile_steps if first else ()))
        while step < total:
            with progress.waiting(partial(is_running, pending)):
                batch, loaded, position = next(ahead)
            profile.before(step + 1)
            state, values = train_step(state, batch)
            step += 1
            checkpoints.poll()
            if pending is not None:
                settle(*pending)
            pending = step, values, loaded, position
            profile.after(step, values)
            stopping = stop.at(step)
            if stopping or evaluation_due(step) or is_due(step, run.checkpoint_every):
                settle(*pending)
                pending = None
                with progress.paused():
                    # Metrics are written before the checkpoint of their step: no kill loses or repeats a line.
                    evaluation = evaluate_now(step) if evaluation_due(step) else None
                    meta = make_meta(config, train_split.class_names, train_split.category_ids, evaluation)
                    checkpoints.save(devices.unreplicate(state), meta, data_state=position)
            if stopping and step < total:
                checkpoints.wait()
                print(f"stopped after step {step}, which is saved; the same command goes on from there", flush=True)
                return STOPPED
    if metrics is not None:
        print(box_counts.describe(position["boxes"]), last_line(metrics, total), sep="\n")
    return 0


def open_data(config: Config, folder: Path, by_number: bool = False) -> tuple[Split, Split]:
    """The training and the held-out split; prints a line for everything that is left out of them."""
    source = make_source(config.data, folder)
    train_split, val_split = source.split("train"), source.split("val")
    names = train_split.class_names
    if len(names) != config.model.num_classes:
        raise ConfigError(
            f"config.model.num_classes is {config.model.num_classes}, but the data has {len(names)} classes:"
            f" {', '.join(names)}"
        )
    val_split, matched = classes.matched(val_split, names, "the training part", by_number)
    _, notes = pipeline.train_images(train_split, config.data)
    print(f"{len(train_split)} images to train on, {len(val_split)} held out, {len(names)} classes")
    for name, lines in (("train", [*train_split.notes, *notes]), ("val", [*val_split.notes, *matched])):
        for line in lines:
            print(f"  {name}: {line}")
    return train_split, val_split


def with_position(batches: Iterator[pipeline.Loaded]) -> Iterator[tuple[Any, Any]]:
    """Each batch with the iterator state after it; by the time of a checkpoint the iterator itself has read ahead."""
    for loaded in batches:
        yield loaded, batches.get_state()  # type: ignore[attr-defined]


def is_running(results: Any) -> bool:
    """Whether the devices are still computing any array in the tree `results`."""
    arrays: list[Any] = [leaf for leaf in jax.tree.leaves(results) if isinstance(leaf, jax.Array)]
    return not all(array.is_ready() for array in arrays)


def is_due(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def finished(folder: Path, total: int) -> str | None:
    """The last line of a run whose steps are all done, evaluated, and saved without damage, or None."""
    where = folder / "checkpoints" / str(total)
    scores = average_precision.scores_at(read_metrics(folder / "metrics.jsonl"), total) if where.is_dir() else None
    if scores is None:
        return None
    try:
        stored.verify(where)
    except stored.CheckpointError:
        return None  # the run goes on from the one before, and says why
    return average_precision.ap_line(scores)


def last_line(metrics: Metrics, total: int) -> str:
    """The line with which a run ends. Raises TrainError, which names the log, where that lacks the evaluation."""
    scores = average_precision.scores_at(metrics.rows, total)
    if scores is None:
        raise TrainError(f"{metrics.path} has no evaluation of step {total}")
    return average_precision.ap_line(scores)


def use_compilation_cache(config: Config, folder: Path) -> None:
    """Keeps compiled programs in a folder, so that a resumed run does not compile them again."""
    choice = config.run.compilation_cache
    if choice != "off":
        cache = command.path(choice) if choice else command.real(folder / ".cache")
        jax.config.update("jax_compilation_cache_dir", str(cache))


def main() -> int:
    parser = flags.parser("python -m dyhead_jax.train", __doc__ or "")
    distributed.add_options(parser)
    command.add_trust(parser)
    parser.add_argument(classes.OPTION, action="store_true", help=classes.HELP)
    parsed = flags.parse(parser)
    if parsed is not None:
        config, options = parsed
        with distributed.initialized(distributed.hosts(options)):
            return train(config, options.workdir, options.trust, options.classes_by_number)
    return 0


if __name__ == "__main__":
    command.run(main)
