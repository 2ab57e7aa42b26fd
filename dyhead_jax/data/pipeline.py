"""Batches for the device: Grain runs the loading, `schedule` says what is loaded, `transforms` what happens to it.

Images stay uint8 and are padded with zeros at the bottom and right; the device normalises them. Everything random about
a row follows from (seed, step, row of the global batch) alone, not from the host, the worker or the steps before. So a
run resumed at a step sees what an uninterrupted run would have seen, and all hosts together see what one host would
have seen alone.
"""

import os
import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import grain
import numpy as np

from dyhead_jax.config import DataConfig
from dyhead_jax.data import schedule, workers
from dyhead_jax.data.box_counts import BoxCounts
from dyhead_jax.data.mixing import Mixer
from dyhead_jax.data.schedule import Canvas, TrainSchedule, choose_canvases
from dyhead_jax.data.source import NO_IMAGE, DataError, Split
from dyhead_jax.data.transforms import EvalTransform, Placed, TrainTransform
from dyhead_jax.types import Batch, GroundTruth

_LAST_STEP = 2**40  # the schedule has no end; Grain wants one


class Loaded(NamedTuple):
    """This host's rows of a batch, numpy arrays.

    batch: images, and ground truth with sizes and with crowd boxes (mask and crowd are both True); image_ids: (b,)
    int64, NO_IMAGE in a padding row; scales: (b, 2) float32 (y, x), resized over original size; left_out: (b,) int32,
    boxes that the transforms or `max_boxes` removed; too_small, over_max: (b,) int32, those of them with a side under
    `min_box_side`, and those beyond `max_boxes`. A row that is mixed of several images has id and scale of the first,
    and counts the boxes of all.
    """

    batch: Batch
    image_ids: np.ndarray
    scales: np.ndarray
    left_out: np.ndarray
    too_small: np.ndarray
    over_max: np.ndarray


def train_images(split: Split, data: DataConfig) -> tuple[np.ndarray, list[str]]:
    """The rows (n,) int64 of `split` to train on, and notes on what is left out of training for this config.

    Raises DataError when nothing is left.
    """
    counts = np.asarray(split.box_counts)
    rows, notes = np.arange(len(split)), []
    if data.skip_empty:
        rows = np.flatnonzero(counts > 0)
        if len(rows) < len(split):
            notes.append(f"{len(split) - len(rows)} of {len(split)} images without boxes left out (data.skip_empty)")
    if not len(rows):
        raise DataError("the training split has no image with a box; data.skip_empty=False would train on empty images")
    if unseen := sorted(set(range(len(split.class_names))) - set(split.box_labels()[1].tolist())):
        shown = ", ".join(split.class_names[label] for label in unseen[:10]) + (", ..." if len(unseen) > 10 else "")
        notes.append(f"{len(unseen)} of {len(split.class_names)} classes have no box to train on: {shown}")
    if many := int((counts > data.max_boxes).sum()):
        notes.append(f"{many} images have more than data.max_boxes={data.max_boxes} boxes; the largest are kept")
    if data.mosaic > 0 or data.mixup > 0 or data.copy_boxes > 0:
        notes.append(f"mixed images may have more than data.max_boxes={data.max_boxes} boxes; the largest are kept")
    if data.repeat_factor > 0:
        mean = float(_repeat_factors(split, rows, data).mean())
        notes.append(f"images of rare classes repeated (data.repeat_factor): {mean:.2f} times each a pass on average")
    return rows, notes


class TrainIterator(grain.DatasetIterator[Loaded]):
    """Endless batches. The state is the next step and what became of the boxes until then, as JSON for
    `grain.checkpoint`, whatever the number of workers."""

    def __init__(self, load: "_TrainLoader", start_step: int, workers: int):
        super().__init__()
        self._load = load
        self._step = start_step
        self._workers = workers
        images = sum(len(group) for group in load.schedule.groups)
        passes = -(-images // load.schedule.batch_size)
        self._counts = BoxCounts(passes, load.mixer.transform.min_box_side)
        self._inner: grain.DatasetIterator[Loaded] | None = None
        self._running = False  # a batch has come

    def __next__(self) -> Loaded:
        inner = self._inner = self._inner or self._start()
        starts = self._workers > 0 and not self._running  # grain starts its workers when the first batch is asked for
        try:
            with workers.undisturbed() if starts else nullcontext():
                loaded = next(inner)
        except RuntimeError as error:
            if "Worker process was terminated" not in str(error):
                raise
            code = "".join(re.findall(r"exit code (-?\d+)", str(error)))
            raise DataError(
                f"a loading process ended with exit code {code}, as when memory runs out;"
                " config.data.workers=0 loads in threads"
            ) from error
        self._running = True
        self._step += 1
        mask = np.asarray(loaded.batch.ground_truth.mask)
        wrong = self._counts.add(mask, loaded.left_out, loaded.too_small, loaded.over_max)
        if wrong is not None:
            raise DataError(wrong)
        return loaded

    def image_ids(self, step: int) -> np.ndarray:
        """(B,) int64 ids of the images of step `step`, counted from 0, on all hosts, in the order of the batch."""
        _, images = self._load.schedule.step(step)
        return np.asarray(self._load.split.image_ids)[images]

    def get_state(self) -> dict[str, Any]:
        """{"step": the step whose batch comes next, "boxes": see `BoxCounts`, of the batches before}."""
        return {"step": self._step, "boxes": self._counts.state()}

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues at the step of `state`. Raises DataError for the state of another kind of iterator."""
        step = state.get("step") if isinstance(state, dict) else None
        if not isinstance(step, int) or step < 0:
            raise DataError(f"{state!r} is not the state of a training iterator")
        self.close()
        self._step = step
        self._counts.set_state(state.get("boxes"))

    def start_prefetch(self) -> None:
        """Starts to load ahead."""
        if self._inner is None:
            self._inner = self._start()

    def close(self) -> None:
        """Ends the threads and worker processes; the next batch starts them again."""
        if self._inner is not None:
            self._inner.close()
        self._inner, self._running = None, False

    def __str__(self) -> str:
        return f"TrainIterator(step={self._step}, workers={self._workers})"

    def _start(self) -> grain.DatasetIterator[Loaded]:
        steps = grain.MapDataset.range(self._step, _LAST_STEP).map(self._load)
        if self._workers == 0:
            inner = iter(steps.to_iter_dataset(_threads()))
        else:
            single = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
            options = grain.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
            inner = iter(steps.to_iter_dataset(single).mp_prefetch(options, worker_init_fn=workers.end_with_parent))
        inner.start_prefetch()
        return inner


def train_batches(
    split: Split,
    data: DataConfig,
    seed: int,
    *,
    process_index: int = 0,
    process_count: int = 1,
    start_step: int = 0,
) -> TrainIterator:
    """This host's rows [i * B / P, (i + 1) * B / P) of the global batches of `data.batch_size` B from `start_step` on.

    Loads ahead in threads, or in `data.workers` processes. Raises DataError when B is not a multiple of the number of
    hosts P or there is nothing to train on; an unreadable image raises DataError from `next`.
    """
    rows, _ = train_images(split, data)
    own = _own_rows("data.batch_size", data.batch_size, process_index, process_count)
    canvas_of = _canvas_of(split.sizes[rows], data)
    groups = tuple(rows[canvas_of == canvas] for canvas in range(len(data.canvases)))
    transform = TrainTransform(
        random_crop=data.random_crop,
        blur=data.blur,
        noise=data.noise,
        short_side=tuple(data.short_side),
        short_side_choice=data.short_side_choice,
        long_side=data.long_side,
        scale_jitter=data.scale_jitter,
        color_jitter=data.color_jitter,
        flip=data.flip,
        min_box_side=data.min_box_side,
    )
    repeats = None
    if data.repeat_factor > 0:
        factors = _repeat_factors(split, rows, data)
        repeats = tuple(factors[canvas_of == canvas] for canvas in range(len(data.canvases)))
    steps = TrainSchedule(groups, data.batch_size, seed, repeats)
    mixer = Mixer(split.__getitem__, rows, transform, data.mosaic, data.copy_boxes, data.mixup)
    load = _TrainLoader(split, steps, data.canvases, mixer, own, data.max_boxes)
    return TrainIterator(load, start_step, data.workers)


def eval_batches(
    split: Split, data: DataConfig, *, flip: bool = False, process_index: int = 0, process_count: int = 1
) -> Iterator[Loaded]:
    """This host's rows of the evaluation batches: every image exactly once over all hosts, whatever their number.

    Batches have `data.eval_batch_size` rows over all hosts, rounded up to a multiple of the hosts. Every host gets the
    same number of batches, on the same canvases in the same order. Padding rows have image_id NO_IMAGE, size 1 x 1 and
    no boxes. flip: images and boxes are mirrored left to right. Raises DataError as `train_batches` does.
    """
    size = -(-data.eval_batch_size // process_count) * process_count
    own = _own_rows("data.eval_batch_size", size, process_index, process_count)
    canvas_of = _canvas_of(split.sizes, data)
    batches = schedule.eval_batches(canvas_of, len(data.canvases), size)
    transform = EvalTransform(tuple(data.short_side), data.long_side, flip)
    load = _EvalLoader(split, batches, data.canvases, transform, own, data.max_boxes)
    return iter(grain.MapDataset.range(len(batches)).map(load).to_iter_dataset(_threads()))


@dataclass(slots=True, frozen=True)
class _TrainLoader:
    split: Split
    schedule: TrainSchedule
    canvases: tuple[Canvas, ...]
    mixer: Mixer
    rows: range
    max_boxes: int

    def __call__(self, step: int) -> Loaded:
        _one_thread()
        group, images = self.schedule.step(step)
        canvas = self.canvases[group]
        placed: list[Placed | None] = []
        for row in self.rows:
            rng = np.random.default_rng([self.schedule.seed, 2, step, row])
            placed.append(self.mixer(int(images[row]), canvas, rng))
        return collate(placed, canvas, self.max_boxes)


@dataclass(slots=True, frozen=True)
class _EvalLoader:
    split: Split
    batches: list[tuple[int, np.ndarray]]
    canvases: tuple[Canvas, ...]
    transform: EvalTransform
    rows: range
    max_boxes: int

    def __call__(self, number: int) -> Loaded:
        _one_thread()
        group, images = self.batches[number]
        canvas = self.canvases[group]
        own = [int(images[row]) for row in self.rows]
        placed = [self.transform(self.split[image], canvas) if image >= 0 else None for image in own]
        return collate(placed, canvas, self.max_boxes)


def collate(placed: list[Placed | None], canvas: Canvas, max_boxes: int) -> Loaded:
    """Pads and stacks the images and boxes of a batch; None is a padding row.

    Of more than `max_boxes` boxes the largest are kept, crowd regions last; they stay in the file's order.
    """
    count = len(placed)
    images = np.zeros((count, *canvas, 3), np.uint8)
    boxes = np.zeros((count, max_boxes, 4), np.float32)
    labels = np.zeros((count, max_boxes), np.int32)
    mask = np.zeros((count, max_boxes), bool)
    crowd = np.zeros((count, max_boxes), bool)
    sizes = np.ones((count, 2), np.int32)
    image_ids = np.full(count, NO_IMAGE, np.int64)
    scales = np.ones((count, 2), np.float32)
    left_out, too_small, over_max = (np.zeros(count, np.int32) for _ in range(3))
    for row, item in enumerate(placed):
        if item is None:
            continue
        example = item.example
        height, width = example.image.shape[:2]
        images[row, :height, :width] = example.image
        kept = np.arange(len(example.boxes))
        if len(kept) > max_boxes:
            areas = np.prod(example.boxes[:, 2:] - example.boxes[:, :2], axis=1)
            kept = np.sort(np.lexsort((-areas, example.crowd))[:max_boxes])
        n = len(kept)
        boxes[row, :n], labels[row, :n], crowd[row, :n] = example.boxes[kept], example.labels[kept], example.crowd[kept]
        mask[row, :n] = True
        sizes[row] = height, width
        image_ids[row] = example.image_id
        scales[row] = item.scale
        over_max[row] = len(example.boxes) - n
        left_out[row] = item.left_out + over_max[row]
        too_small[row] = item.too_small
    truth: Any = GroundTruth(boxes, labels, mask, crowd, sizes)  # type: ignore[arg-type]
    batch = Batch(images, truth)  # type: ignore[arg-type]
    return Loaded(batch, image_ids, scales, left_out, too_small, over_max)


def _repeat_factors(split: Split, rows: np.ndarray, data: DataConfig) -> np.ndarray:
    """(n,) of the rows of `split` to train on; see `schedule.repeat_factors`."""
    of_box, labels = split.box_labels()
    place = np.full(len(split), -1)
    place[rows] = np.arange(len(rows))
    trained = place[of_box] >= 0
    return schedule.repeat_factors(place[of_box[trained]], labels[trained], len(rows), data.repeat_factor)


def _own_rows(name: str, batch_size: int, process_index: int, process_count: int) -> range:
    if batch_size % process_count:
        raise DataError(f"config.{name} {batch_size} is not a multiple of the {process_count} hosts")
    share = batch_size // process_count
    return range(process_index * share, (process_index + 1) * share)


def _canvas_of(sizes: np.ndarray, data: DataConfig) -> np.ndarray:
    if not data.short_side or min(data.short_side) <= 0:
        raise DataError(f"config.data.short_side is {data.short_side!r}; give one or more sides above 0")
    return choose_canvases(sizes, data.canvases, max(data.short_side), data.long_side)


def _threads() -> grain.ReadOptions:
    count = min(8, os.cpu_count() or 1)
    return grain.ReadOptions(num_threads=count, prefetch_buffer_size=count + 1)


def _one_thread() -> None:
    cv2.setNumThreads(0)  # OpenCV's own threads would compete with these and with XLA's
