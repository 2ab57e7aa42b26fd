"""Runs a trained model on image files: pictures with boxes, and a COCO results file.

python -m dyhead_jax.predict --help
"""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.data import images, pictures
from dyhead_jax.data.schedule import choose_canvases
from dyhead_jax.data.source import DataError, Example
from dyhead_jax.data.transforms import EvalTransform
from dyhead_jax.evaluation.average_precision import Result
from dyhead_jax.evaluation.split import to_results
from dyhead_jax.files import write_atomic
from dyhead_jax.types import Detections

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm")  # of image files in a folder


class PredictError(ValueError):
    """The inputs cannot be predicted; the message names the file or folder."""


def find_images(inputs: Iterable[str | Path]) -> list[Path]:
    """The image files in a list of files and folders, without duplicates, in the given order.

    A folder stands for its image files sorted by name, without sub-folders; a file is taken whatever its suffix. A file
    that does not exist is kept, and reported when it is read. Raises PredictError for a folder without images.
    """
    by_path: dict[Path, Path] = {}
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
            if not inside:
                raise PredictError(f"{path}: no image in this folder ({', '.join(SUFFIXES)})")
        else:
            inside = [path]
        for image in inside:
            by_path.setdefault(image.resolve(), image)
    return list(by_path.values())


def picture_names(paths: Sequence[Path], folder: Path) -> list[str]:
    """The name of each image's picture in `folder`: <stem>_boxes.jpg, with a number added if an earlier picture or an
    input file has that name."""
    taken = {str(path.resolve()).casefold() for path in paths}
    names = []
    for path in paths:
        number, name = 1, f"{path.stem}_boxes.jpg"
        while str((folder / name).resolve()).casefold() in taken:
            number += 1
            name = f"{path.stem}_boxes_{number}.jpg"
        taken.add(str((folder / name).resolve()).casefold())
        names.append(name)
    return names


def predict(
    detect: Callable[[np.ndarray, np.ndarray], Detections],
    image: np.ndarray,
    transform: EvalTransform,
    canvases: tuple[tuple[int, int], ...],
    category_ids: Sequence[int],
    image_id: int = 1,
) -> list[Result]:
    """COCO results of one image, resized and padded as in evaluation; boxes in pixels of `image`, best first.

    detect: (images (1, h, w, 3) uint8, sizes (1, 2) int32) -> Detections; it sees one shape per canvas (h, w), so a
    jitted one compiles once for each. image: (h, w, 3) uint8 RGB.
    """
    example = Example(
        image=image,
        image_id=image_id,
        file_name="",
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int32),
        crowd=np.zeros(0, bool),
    )
    size = image.shape[0], image.shape[1]
    short_side = max(transform.short_side)
    canvas = canvases[int(choose_canvases(np.array([size]), canvases, short_side, transform.long_side)[0])]
    placed = transform(example, canvas)
    height, width = placed.example.image.shape[:2]
    padded = np.zeros((1, *canvas, 3), np.uint8)
    padded[0, :height, :width] = placed.example.image
    detections = detect(padded, np.array([[height, width]], np.int32))
    scales = np.array([placed.scale], np.float64)
    return to_results(detections, np.array([image_id]), scales, category_ids, np.array([size]))


def predict_files(
    paths: Sequence[Path],
    out: Path,
    predict_image: Callable[[np.ndarray, int], list[Result]],
    class_names: Sequence[str],
    category_ids: Sequence[int],
    score: float,
) -> tuple[list[Result], list[str]]:
    """Predicts image files and writes into `out` a picture of each, detections.json and images.json.

    predict_image: (image, image id) -> COCO results; those scored below `score` are dropped everywhere.
    image_id counts the inputs from 1. detections.json is a list of COCO results with `file_name` added; images.json is
    the matching COCO object, with `file_name`, `height`, `width` and `picture` of each image that could be read.
    Returns (results, one error line for each image that could not be read).
    Raises PredictError, before writing anything, if an input file would be overwritten.
    """
    inputs = {path.resolve() for path in paths}
    for name in ("detections.json", "images.json"):
        if (out / name).resolve() in inputs:
            raise PredictError(f"{out / name}: is an input file and would be overwritten; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    label_of = {category: label for label, category in enumerate(category_ids)}
    results: list[Result] = []
    records: list[dict[str, Any]] = []
    errors: list[str] = []
    names = picture_names(paths, out)
    with tqdm(total=len(paths), unit="image", disable=not sys.stderr.isatty(), leave=False) as bar:
        for image_id, (path, name) in enumerate(zip(paths, names, strict=True), 1):
            try:
                image = images.decode(path.read_bytes(), str(path))
            except (DataError, OSError) as error:
                errors.append(command.one_line(error))
                bar.update()
                continue
            kept = [result for result in predict_image(image, image_id) if result["score"] >= score]
            height, width = image.shape[:2]
            corners = [[x, y, x + w, y + h] for x, y, w, h in (result["bbox"] for result in kept)]
            picture = pictures.draw(
                image,
                np.array(corners, np.float64).reshape(-1, 4),
                np.array([label_of[result["category_id"]] for result in kept], int),
                np.array([result["score"] for result in kept]),
                class_names,
            )
            pictures.save(picture, out / name)
            results += [{**result, "file_name": str(path)} for result in kept]
            record = {"id": image_id, "file_name": str(path), "height": height, "width": width, "picture": name}
            records.append(record)
            bar.update()
    categories = [{"id": i, "name": name} for i, name in zip(category_ids, class_names, strict=True)]
    listing = {"images": records, "annotations": [], "categories": categories}
    write_atomic(out / "detections.json", json.dumps(results).encode())
    write_atomic(out / "images.json", json.dumps(listing, indent=1).encode())
    return results, errors


def _main() -> int:
    parser = command.parser(
        "python -m dyhead_jax.predict",
        "Detects objects in image files with a trained model.\n\n"
        "Writes into the folder --out: <name>_boxes.jpg for each image, detections.json (COCO results; image_id\n"
        "counts the inputs from 1) and images.json (file name, size and picture of each image, and the categories).\n"
        "An image that cannot be read is reported; the others are still processed, and the exit code is 1.",
        "  python -m dyhead_jax.predict --workdir /tmp/run --out /tmp/pictures photo.jpg\n"
        "  python -m dyhead_jax.predict --workdir /tmp/run --out /tmp/pictures --score 0.5 folder/ other/*.png",
    )
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a training run")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the latest)")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder for the pictures and JSON files; created if missing"
    )
    parser.add_argument("--score", type=float, default=0.3, help="minimum score of a box; 0 keeps all (default: 0.3)")
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="image files, and folders of them")
    options = command.parse(parser)
    command.no_overrides(options)
    if not 0 <= options.score <= 1:
        raise command.UsageError(f"--score {options.score}: it must be from 0 to 1")
    if options.out.exists() and not options.out.is_dir():
        raise PredictError(f"--out {options.out}: is a file; give a folder")
    paths = find_images(options.images)

    import jax  # the model takes seconds to import; wrong arguments are reported before that

    from dyhead_jax.evaluation.trained_model import load_for_inference
    from dyhead_jax.training.steps import make_detect

    loaded = load_for_inference(options.workdir, options.step)
    data = loaded.config.data
    compiled = jax.jit(make_detect(loaded.model))
    variables = jax.device_put(loaded.variables)
    transform = EvalTransform(short_side=data.short_side, long_side=data.long_side)

    def predict_image(image: np.ndarray, image_id: int) -> list[Result]:
        def detect(padded: np.ndarray, sizes: np.ndarray) -> Detections:
            return compiled(variables, padded, sizes)

        return predict(detect, image, transform, data.canvases, loaded.category_ids, image_id)

    results, errors = predict_files(
        paths, options.out, predict_image, loaded.class_names, loaded.category_ids, options.score
    )
    for error in errors:
        print(f"error: {error}", file=sys.stderr)
    done = len(paths) - len(errors)
    print(f"{done} of {len(paths)} images, {len(results)} boxes scored {options.score:g} or more, in {options.out}")
    return 1 if errors else 0


if __name__ == "__main__":
    command.run(_main)
