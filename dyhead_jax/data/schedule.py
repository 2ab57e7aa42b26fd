"""Which images make up which step, and on which canvas: one schedule from one seed, the same on every host.

Images are grouped by the canvas that fits them best. Each group is an endless sequence of its images, shuffled anew for
every pass, and is cut into batches. A batch at the end of a pass is filled up with the beginning of the next pass, so
that no image is dropped or repeated within a pass. An epoch has the batches that its passes complete, in shuffled
order. Any step can be computed without the steps before it.

With repeat factors a pass shows image i r_i times on average: floor or ceil of r_i times, drawn anew for every pass, of
the same length each.
"""

from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from dyhead_jax.data.source import DataError
from dyhead_jax.data.transforms import resized_size

Canvas = tuple[int, int]


def choose_canvases(sizes: np.ndarray, canvases: tuple[Canvas, ...], short_side: float, long_side: float) -> np.ndarray:
    """The canvas of each image, (n,) int64 rows of `canvases`: the one on which the image can be largest.

    sizes: (n, 2) height, width of the images; canvases: (height, width) each; short_side, long_side: as in
    `transforms.resized_size`. Of canvases on which it is as large, the one with the least area, and then the first.
    """
    areas = np.array([height * width for height, width in canvases])
    choices: dict[Canvas, int] = {}
    for height, width in {(int(h), int(w)) for h, w in sizes}:
        fitted = [resized_size((height, width), short_side, long_side, canvas) for canvas in canvases]
        fitted_areas = np.array([h * w for h, w in fitted])
        choices[height, width] = int(np.lexsort((np.arange(len(canvases)), areas, -fitted_areas))[0])
    return np.array([choices[int(h), int(w)] for h, w in sizes], np.int64)


@dataclass(frozen=True)
class TrainSchedule:
    """Which images make up each training step.

    groups: for each canvas the images shown on it, (n_k,) int64 rows of the split each; batch_size: images of a step
    over all hosts; repeats: for each canvas how often a pass shows each image, (n_k,) of at least 1, None for once.
    Raises DataError when there is no image.
    """

    groups: tuple[np.ndarray, ...]
    batch_size: int
    seed: int
    repeats: tuple[np.ndarray, ...] | None = None
    _counts: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        counts = np.array([len(group) for group in self.groups], np.int64)
        if self.repeats is not None:
            counts = np.array([np.ceil(repeats.sum() - 1e-6) for repeats in self.repeats], np.int64)
        if not counts.sum():
            raise DataError("there is no image to train on")
        object.__setattr__(self, "_counts", counts)

    def epoch_start(self, epoch: int) -> int:
        """The first step of an epoch, counted from 0. An epoch of a set smaller than a batch may have no step."""
        return int((epoch * self._counts // self.batch_size).sum())

    def step(self, step: int) -> tuple[int, np.ndarray]:
        """The canvas (row) of global step `step`, counted from 0, and its images: (batch_size,) int64 rows of the
        split."""
        # An epoch has total / batch_size steps, give or take one for each group.
        epoch = max(0, int(step * self.batch_size // self._counts.sum()) - 1)
        while self.epoch_start(epoch + 1) <= step:
            epoch += 1
        while self.epoch_start(epoch) > step:
            epoch -= 1
        order = _order(self.seed, epoch, tuple(self._batches(epoch).tolist()))
        place = step - self.epoch_start(epoch)
        group = int(order[place])
        before = int((order[:place] == group).sum())
        first = epoch * int(self._counts[group]) // self.batch_size + before
        return group, self._sequence(group, first * self.batch_size)

    def _batches(self, epoch: int) -> np.ndarray:
        return (epoch + 1) * self._counts // self.batch_size - epoch * self._counts // self.batch_size

    def _sequence(self, group: int, start: int) -> np.ndarray:
        positions = np.arange(start, start + self.batch_size)
        passes, places = np.divmod(positions, self._counts[group])
        images = np.empty(self.batch_size, np.int64)
        for number in np.unique(passes):
            shuffled = _permutation(self.seed, int(number), group, int(self._counts[group]))
            images[passes == number] = self._pass(group, int(number))[shuffled[places[passes == number]]]
        return images

    def _pass(self, group: int, number: int) -> np.ndarray:
        """The images of a group's pass, before they are shuffled."""
        if self.repeats is None:
            return self.groups[group]
        # Systematic sampling: points at a distance of 1 on a line, along which each image is as long as it is to be
        # repeated. So it gets floor or ceil of its length, and on average its length.
        ends = np.cumsum(self.repeats[group])
        ends *= self._counts[group] / ends[-1]
        points = np.random.default_rng([self.seed, 3, number, group]).random() + np.arange(self._counts[group])
        chosen = np.minimum(np.searchsorted(ends, points, side="right"), len(ends) - 1)
        return self.groups[group][chosen]


def repeat_factors(rows: np.ndarray, labels: np.ndarray, count: int, threshold: float) -> np.ndarray:
    """How often each of `count` images is to be shown in a pass, (count,) float64 of at least 1.

    rows, labels: (k,), the image and the class of every box. A class of a fraction f of the images has the factor
    max(1, sqrt(threshold / f)), an image the largest of its classes. Source: LVIS, https://arxiv.org/abs/1908.03195.
    """
    factors = np.ones(count)
    pairs = np.unique(np.stack([rows, labels], axis=1), axis=0)
    classes, inverse, images = np.unique(pairs[:, 1], return_inverse=True, return_counts=True)
    if len(classes):
        of_class = np.maximum(1, np.sqrt(threshold * count / images))
        np.maximum.at(factors, pairs[:, 0], of_class[inverse])
    return factors


@lru_cache(maxsize=16)
def _permutation(seed: int, number: int, group: int, count: int) -> np.ndarray:
    """The order of a group's images in its pass `number`."""
    return np.random.default_rng([seed, 1, number, group]).permutation(count)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, batches: tuple[int, ...]) -> np.ndarray:
    """The group of each batch of an epoch. batches: how many each group has."""
    return np.random.default_rng([seed, 0, epoch]).permutation(np.repeat(np.arange(len(batches)), batches))


def eval_batches(canvas_of: np.ndarray, canvases: int, batch_size: int) -> list[tuple[int, np.ndarray]]:
    """The canvas (row) of each evaluation batch, and its images: (batch_size,) int64 rows of the split, -1 for padding.

    canvas_of: (n,) int64, the canvas of each image; canvases: how many there are. Every image is in exactly one batch,
    in the order of the split within its canvas.
    """
    batches = []
    for canvas in range(canvases):
        images = np.flatnonzero(canvas_of == canvas)
        padded = np.full(-(-len(images) // batch_size) * batch_size, -1, np.int64)
        padded[: len(images)] = images
        batches += [(canvas, batch) for batch in padded.reshape(-1, batch_size)]
    return batches
