"""`evaluate_split` of drawn squares, as a program for tests of several processes: FOLDER [--coordinator=... ...]."""

import json
from pathlib import Path

import jax

from dyhead_jax import command
from dyhead_jax.data import pipeline
from dyhead_jax.data.source import NO_IMAGE
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.training import distributed
from dyhead_jax.training.parallel import map_detect
from dyhead_jax.types import Detections
from tests.evaluation.test_evaluate import DATA, Squares, find_square

IMAGES = 13  # over two canvases, a multiple of nothing


def detect(variables: None, images: jax.Array, sizes: jax.Array) -> Detections:
    """Boxes that are off by up to four pixels, so that AP is neither 0 nor 1."""
    found = find_square(images, sizes)
    return found.replace(boxes=found.boxes + found.boxes[..., :1] % 5)


def main() -> None:
    parser = command.parser("distributed_evaluate.py", __doc__ or "")
    parser.add_argument("folder")
    distributed.add_options(parser)
    options = command.parse(parser)
    seen: list[int] = []
    whole = pipeline.eval_batches

    def eval_batches(*arguments, **options):
        for loaded in whole(*arguments, **options):
            seen.extend(i for i in loaded.image_ids.tolist() if i != NO_IMAGE)
            yield loaded

    pipeline.eval_batches = eval_batches
    with distributed.initialized(distributed.hosts(options)):
        index, count = jax.process_index(), jax.process_count()
        run = map_detect(detect)
        metrics, results = evaluate_split(
            lambda images, sizes: run(None, images, sizes),
            Squares(IMAGES),
            DATA,
            process_index=index,
            process_count=count,
        )
        text = json.dumps({"metrics": metrics, "results": results, "seen": seen, "processes": count})
        (Path(options.folder) / f"{index}.json").write_text(text)


if __name__ == "__main__":
    command.run(main)
