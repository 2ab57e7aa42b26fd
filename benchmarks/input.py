"""Images a second that the host loads, in turns with the obvious loader, and what each stage costs.

    python benchmarks/input.py --out benchmarks/results/input_cpu.txt

JPEGs of 640 x 480 become batches: decoded, resized to a short side of 800 (long side at most 1333) and padded to the
canvas. Ours is `pipeline.train_batches` on a COCO-JSON folder, as training uses it, without flips; it returns uint8,
and the device normalises. The obvious loader does what many training scripts do: it opens, converts and resizes
(bilinear) with Pillow, normalises to float32 and pads with NumPy, in one thread a core, each of which makes whole
batches. The pictures (gradients, soft blobs and grain, quality 90) are written into a temporary folder.

Both are timed while their threads are busy, at the start and at the end. The stages are timed one by one in one thread.
"""

import argparse
import io
import json
import os
import statistics
import tempfile
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dyhead_jax import command
from dyhead_jax.config import CocoFolderConfig, DataConfig
from dyhead_jax.data import images, pipeline, transforms
from dyhead_jax.data.source import Example, make_source
from dyhead_jax.files import write_atomic
from dyhead_jax.measure.timing import machine

HEIGHT, WIDTH = 480, 640
CANVAS = (800, 1344)
MEAN = np.array([123.675, 116.28, 103.53], np.float32).reshape(1, 1, 3)
STD = np.array([58.395, 57.12, 57.375], np.float32).reshape(1, 1, 3)


def write_folder(root: Path, count: int) -> float:
    """A COCO-JSON folder of `count` pictures with a box each; returns their mean size in bytes."""
    rng = np.random.default_rng(0)
    (root / "train").mkdir()
    (root / "annotations").mkdir()
    total, records, boxes = 0, [], []
    for number in range(count):
        corners = rng.uniform(40, 215, (2, 2, 3)).astype(np.float32)
        blobs = rng.normal(0, 40, (30, 40, 3)).astype(np.float32)
        fine = rng.normal(0, 13, (HEIGHT // 2, WIDTH // 2, 3)).astype(np.float32)
        picture = sum(cv2.resize(x, (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC) for x in (corners, blobs, fine))
        encoded = io.BytesIO()
        Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8)).save(encoded, "JPEG", quality=90)
        name = f"{number}.jpg"
        (root / "train" / name).write_bytes(encoded.getvalue())
        total += len(encoded.getvalue())
        records.append({"id": number + 1, "file_name": name, "height": HEIGHT, "width": WIDTH})
        box = {"bbox": [10, 10, 200, 200], "area": 40_000, "iscrowd": 0}
        boxes.append({"id": number + 1, "image_id": number + 1, "category_id": 1, **box})
    content = {"images": records, "annotations": boxes, "categories": [{"id": 1, "name": "thing"}]}
    (root / "annotations" / "instances_train.json").write_text(json.dumps(content))
    return total / count


def obvious_size(size: tuple[int, int]) -> tuple[int, int]:
    """(width, height) for a short side of 800 and a long side of at most 1333."""
    scale = min(800 / min(size), 1333 / max(size))
    return round(size[0] * scale), round(size[1] * scale)


def obvious_batch(paths: list[Path]) -> np.ndarray:
    """(b, 800, 1344, 3) float32, normalised and padded with zeros."""
    batch = np.zeros((len(paths), *CANVAS, 3), np.float32)
    for row, path in enumerate(paths):
        with Image.open(path) as file:
            image = file.convert("RGB")
        image = image.resize(obvious_size(image.size), Image.Resampling.BILINEAR)
        x = (np.asarray(image, np.float32) - MEAN) / STD
        batch[row, : x.shape[0], : x.shape[1]] = x
    return batch


def obvious_batches(paths: list[Path], batch: int, threads: int) -> Generator[np.ndarray, None, None]:
    """Batches without end; up to two more than `threads` are in preparation."""
    chosen = ([paths[(first + row) % len(paths)] for row in range(batch)] for first in range(0, 2**40, batch))
    with ThreadPoolExecutor(threads) as pool:
        ahead = deque(pool.submit(obvious_batch, next(chosen)) for _ in range(threads + 1))
        while True:
            ahead.append(pool.submit(obvious_batch, next(chosen)))
            yield ahead.popleft().result()


def rate(batches: Iterator[Any], batch: int, count: int, warmup: int) -> tuple[float, float]:
    """Over `count` batches, after `warmup` that do not count: images a second, and milliseconds of processor time that
    all threads together spent on an image, which other programs on the machine disturb less."""
    for _ in range(warmup):
        next(batches)
    start, spent = time.perf_counter(), time.process_time()
    for _ in range(count):
        next(batches)
    images_count = count * batch
    return images_count / (time.perf_counter() - start), (time.process_time() - spent) / images_count * 1e3


@dataclass
class Stages:
    """Seconds an image of each stage, by repeat."""

    seconds: dict[str, list[float]] = field(default_factory=dict)

    def time(self, name: str, function: Callable[[Any], Any], items: Iterable[Any], images_each: int = 1) -> list[Any]:
        """Calls the function on every item and returns the results."""
        start = time.perf_counter()
        results = [function(item) for item in items]
        spent = (time.perf_counter() - start) / (len(results) * images_each)
        self.seconds.setdefault(name, []).append(spent)
        return results

    def lines(self) -> list[str]:
        """A row for each stage: milliseconds an image, and its share of them all."""
        medians = {name: statistics.median(values) for name, values in self.seconds.items()}
        total = sum(medians.values())
        rows = [f"  {name:22}{value * 1e3:8.2f} ms{value / total:7.0%}" for name, value in medians.items()]
        return [*rows, f"  {'together':22}{total * 1e3:8.2f} ms   {1 / total:.0f} images/s in one thread"]


def time_ours(stages: Stages, split: Any, batch: int) -> None:
    """The stages of the pipeline on the first `batch` images."""
    cv2.setNumThreads(0)  # as the pipeline's threads have it
    size = transforms.resized_size((HEIGHT, WIDTH), 800, 1333, CANVAS)
    encoded = stages.time("read", split.encoded.read, range(batch))
    decoded = stages.time("decode", lambda data: images.decode(data, "picture"), encoded)
    none = np.zeros((0, 4), np.float32)
    examples = [Example(x, 1, "picture", none, np.zeros(0, np.int32), np.zeros(0, bool)) for x in decoded]
    resized = stages.time("resize", lambda example: transforms.resize(example, size), examples)
    placed = [transforms.Placed(example, (1.0, 1.0), 0) for example in resized]
    stages.time("pad into a batch", lambda rows: pipeline.collate(rows, CANVAS, 100), [placed], batch)


def time_obvious(stages: Stages, paths: list[Path]) -> None:
    """The stages of the obvious loader on the images of one batch."""
    encoded = stages.time("read", Path.read_bytes, paths)
    decoded = stages.time("decode", lambda data: Image.open(io.BytesIO(data)).convert("RGB"), encoded)
    bilinear = Image.Resampling.BILINEAR
    resized = stages.time("resize", lambda image: image.resize(obvious_size(image.size), bilinear), decoded)
    floats = stages.time("normalise to float32", lambda image: (np.asarray(image, np.float32) - MEAN) / STD, resized)

    def pad(rows: list[np.ndarray]) -> np.ndarray:
        canvas = np.zeros((len(rows), *CANVAS, 3), np.float32)
        for row, x in enumerate(rows):
            canvas[row, : x.shape[0], : x.shape[1]] = x
        return canvas

    stages.time("pad into a batch", pad, [floats], len(paths))


def device_rate(batch: int, repeats: int) -> float:
    """Images a second that JAX's device normalises, by a program of its own."""
    normalise = jax.jit(lambda x: (x.astype(jnp.float32) - MEAN[None]) / STD[None])
    x = jax.device_put(np.zeros((batch, *CANVAS, 3), np.uint8))
    jax.block_until_ready(normalise(x))
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(normalise(x))
        seconds.append(time.perf_counter() - start)
    return batch / statistics.median(seconds)


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:8.1f}   quartiles {low:.1f} to {high:.1f} of {len(values)} repeats"


def measure(root: Path, options: argparse.Namespace) -> str:
    """Writes the pictures into `root`, measures, and returns the text."""
    mean_bytes = write_folder(root, options.images)
    data = DataConfig(
        source=CocoFolderConfig(root=str(root)), canvases=(CANVAS,), flip=0.0, batch_size=options.batch, max_boxes=100
    )
    split = make_source(data, root).split("train")
    paths = sorted((root / "train").iterdir())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    ours, theirs = [], []
    warmup = 2 * cores + 2  # batches that may be ready before the first is asked for
    our_stages, their_stages = Stages(), Stages()
    for _ in range(options.repeats):
        with closing(pipeline.train_batches(split, data, 0)) as batches:
            ours.append(rate(batches, options.batch, options.batches, warmup))
        with closing(obvious_batches(paths, options.batch, cores)) as batches:
            theirs.append(rate(batches, options.batch, options.batches, warmup))
        time_ours(our_stages, split, options.batch)
        time_obvious(their_stages, paths[: options.batch])
    (our_rates, our_times), (their_rates, their_times) = (
        tuple(map(list, zip(*x, strict=True))) for x in (ours, theirs)
    )
    faster = [a / b for a, b in zip(our_rates, their_rates, strict=True)]
    cheaper = [b / a for a, b in zip(our_times, their_times, strict=True)]
    same = " with these same cores" if jax.default_backend() == "cpu" else ""
    lines = [
        "python benchmarks/input.py"
        + "".join(f" --{name} {getattr(options, name)}" for name in ("images", "batch", "batches", "repeats")),
        "  ".join(f"{key} {value}" for key, value in machine().items()),
        f"{options.images} JPEGs of {WIDTH} x {HEIGHT}, {mean_bytes / 1000:.0f} kB each; to 1067 x 800 on a canvas of"
        f" {CANVAS[1]} x {CANVAS[0]}, batches of {options.batch}",
        "",
        "images a second",
        f"  ours, uint8           {spread(our_rates)}",
        f"  obvious, float32      {spread(their_rates)}",
        f"  ours / obvious        {spread(faster)}",
        "processor milliseconds an image, all threads",
        f"  ours, uint8           {spread(our_times)}",
        f"  obvious, float32      {spread(their_times)}",
        f"  obvious / ours        {spread(cheaper)}",
        "",
        "ours, a thread, an image",
        *our_stages.lines(),
        "obvious, a thread, an image",
        *their_stages.lines(),
        "",
        f"the device normalises {device_rate(options.batch, options.repeats):.0f} images/s{same}; in training that is"
        " part of the step's program",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = command.parser("python benchmarks/input.py", __doc__)
    parser.add_argument("--images", type=int, default=64, help="pictures to write (default: 64)")
    parser.add_argument("--batch", type=int, default=8, help="images of a batch (default: 8)")
    parser.add_argument("--batches", type=int, default=24, help="batches a repeat (default: 24)")
    parser.add_argument("--repeats", type=int, default=7, help="of each loader, in turn (default: 7)")
    parser.add_argument("--out", type=Path, help="also write the text here")
    options = parser.parse_args()
    if min(options.images - options.batch + 1, options.batch, options.batches, options.repeats - 1) < 1:
        raise command.UsageError(
            f"--images={options.images} --batch={options.batch} --repeats={options.repeats}: there must be"
            " at least 1 batch of images and 2 repeats"
        )
    with tempfile.TemporaryDirectory() as root:
        text = measure(Path(root), options)
    print(text, end="")
    if options.out is not None:
        write_atomic(options.out, text.encode())


if __name__ == "__main__":
    command.run(main)
