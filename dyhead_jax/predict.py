"""Runs a trained model on pictures and videos: copies with boxes, and what was found as JSON and as a table.

python -m dyhead_jax.predict --help
"""

import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.data import fonts
from dyhead_jax.data.source import DataError
from dyhead_jax.inference import inputs, pictures
from dyhead_jax.inference.inputs import PredictError
from dyhead_jax.inference.results import Results, check_writable, output_names
from dyhead_jax.inference.video import Video, write_video

# (pictures (h, w, 3) uint8 RGB) -> the FoundObjects of each
Find = Callable[[list[np.ndarray]], Sequence[Any]]

DESCRIPTION = """\
Detects objects in pictures and videos with a trained model.

An input is an image or video file, a folder (with its sub-folders) of images, or a pattern in quotes. Photographs are
turned upright by their EXIF orientation. Writes into the folder --out:
  <name>_boxes.jpg    each picture with its boxes; <name>_boxes.mp4 of a video
  detections.json     COCO results; image_id counts the pictures, and the frames of videos, from 1
  detections.csv      the same as a table, with corners x1 y1 x2 y2 in pixels
  images.json         file name, size and picture of each image, and the categories
Pictures that an earlier prediction drew are no inputs. A file that cannot be read is reported; the others are still
processed, and the exit code is 1."""

EXAMPLES = """\
  python -m dyhead_jax.predict --workdir runs/mine --out found photo.jpg
  python -m dyhead_jax.predict --workdir runs/mine --out found --score 0.5 folder/ 'holiday/**/*.jpg' clip.mp4
  python -m dyhead_jax.predict --workdir runs/mine --out found --tiles 640 --overlap 0.2 aerial.tif
  python -m dyhead_jax.predict --workdir exported --out found --batch 16 folder/"""


def predict_files(
    paths: Sequence[Path], out: Path, find: Find, results: Results, batch_size: int
) -> tuple[int, list[str]]:
    """Predicts files and writes into `out` a copy of each with boxes, and `results`.

    Pictures are read and found `2 * batch_size` at a time, so that those that share a canvas can go together.
    Returns (number of files that were read, one line for each that could not, or for a video that was not written).
    Raises PredictError, before writing anything, if a file that is not of a prediction would be overwritten.
    """
    check_writable(paths, out)
    out.mkdir(parents=True, exist_ok=True)
    errors: list[str] = []
    ids = itertools.count(1)
    done = 0
    names = output_names(paths, out)
    with tqdm(total=len(paths), unit="file", disable=not sys.stderr.isatty(), leave=False) as bar:
        for is_video, group in itertools.groupby(zip(paths, names, strict=True), lambda pair: inputs.is_video(pair[0])):
            for part in _chunks(group, 1 if is_video else 2 * batch_size):
                if is_video:
                    path, name = part[0]
                    done += _predict_video(path, name, out, find, results, ids, errors, 2 * batch_size)
                else:
                    done += _predict_pictures(part, out, find, results, ids, errors)
                bar.update(len(part))
    results.write(out)
    return done, errors


def _predict_pictures(part: Any, out: Path, find: Find, results: Results, ids: Any, errors: list[str]) -> int:
    read: list[tuple[Path, str, int, np.ndarray]] = []
    for path, name in part:
        image_id = next(ids)
        try:
            read.append((path, name, image_id, pictures.read(path)))
        except (DataError, OSError) as error:
            errors.append(command.one_line(error))
    found = _find_or_name(find, read, errors)
    for (path, name, image_id, _), one in found:
        one.save(out / name)
        results.add(path, image_id, one, name)
    return len(found)


def _find_or_name(find: Find, read: list[Any], errors: list[str]) -> list[tuple[Any, Any]]:
    """Each of `read`, whose last item is a picture, with what is found in it; those for which the network gives NaN are
    named in `errors` instead."""
    from dyhead_jax.weights.finite import NotFiniteError  # imports JAX, which is loaded by now

    try:
        return list(zip(read, find([image for *_, image in read]), strict=True))
    except NotFiniteError as error:
        if len(read) == 1:
            errors.append(f"{read[0][0]}: {error}")
            return []
        return [pair for one in read for pair in _find_or_name(find, [one], errors)]


def _predict_video(
    path: Path, name: str, out: Path, find: Find, results: Results, ids: Any, errors: list[str], size: int
) -> int:
    try:
        video = Video(path)
    except PredictError as error:
        errors.append(command.one_line(error))
        return 0
    from dyhead_jax.weights.finite import NotFiniteError

    number = 0
    show = sys.stderr.isatty()
    with video, write_video(out / name, video.rate) as writer:
        frames = tqdm(video, total=video.count or None, unit="frame", desc=path.name, leave=False, disable=not show)
        for part in _chunks(frames, size):
            try:
                every = find(part)
            except NotFiniteError as error:
                errors.append(f"{path}: {error}; its frames from {number} on are left out")
                break
            for found in every:
                writer.add(np.asarray(found.draw()))
                results.add(path, next(ids), found, name, number)
                number += 1
    if not writer.works:
        results.forget_picture(name)
    if number == 0:
        errors.append(f"{path}: no frame of this video can be read")
    elif not writer.works:
        errors.append(f"{out / name}: OpenCV here cannot write this video; what was found is in detections.json")
    elif number < video.count:
        print(f"{path}: {number} frames could be read; the file claims {video.count}")
    return int(number > 0)


def _chunks(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def _main() -> int:
    parser = command.parser("python -m dyhead_jax.predict", DESCRIPTION, EXAMPLES)
    command.add_model_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder for what is written; created if missing")
    parser.add_argument("--score", type=float, default=0.3, help="minimum score of a box; 0 keeps all (default: 0.3)")
    parser.add_argument(
        "--batch", type=int, help="pictures that go through the network together (default: 8, or 1 on a CPU)"
    )
    parser.add_argument("--tiles", type=int, metavar="SIDE", help="also search large pictures in tiles of SIDE pixels")
    parser.add_argument(
        "--overlap", type=float, default=0.2, help="part of a tile's side that its neighbour repeats (default: 0.2)"
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="image files, video files, folders, patterns")
    options = command.parse(parser)
    command.no_overrides(options)
    if not 0 <= options.score <= 1:
        raise command.UsageError(f"--score {options.score}: it must be from 0 to 1")
    if not 0 <= options.overlap < 1:
        raise command.UsageError(f"--overlap {options.overlap}: it must be from 0 to below 1")
    for name in ("batch", "tiles"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise command.UsageError(f"--{name} {getattr(options, name)}: it must be 1 or more")
    if options.out.exists() and not options.out.is_dir():
        raise PredictError(f"--out {options.out}: is a file; give a folder")
    found = inputs.find(options.inputs)
    check_writable(found.paths, options.out)

    import jax  # the model takes seconds to import; wrong arguments are reported before that

    from dyhead_jax.inference import model as inference

    batch_size = options.batch or (1 if jax.default_backend() == "cpu" else 8)
    model = inference.load(options.workdir, options.step, batch_size=batch_size, trust=options.trust)

    def find(images: list[np.ndarray]) -> Sequence[Any]:
        return model(images, options.score, tiles=options.tiles, overlap=options.overlap)

    results = Results(model.class_names, model.category_ids)
    done, errors = predict_files(found.paths, options.out, find, results, batch_size)
    for error in errors:
        print(f"error: {command.one_line(error)}", file=sys.stderr)
    kind = "files" if any(map(inputs.is_video, found.paths)) else "images"
    print(
        f"{done} of {len(found.paths)} {kind}, {len(results.results)} boxes scored {options.score:g} or more,"
        f" in {options.out}"
    )
    if note := fonts.note(model.class_names):
        print(note)
    for kind, number in found.left_out.items():
        print(f"left out: {number} {kind}")
    return 1 if errors else 0


if __name__ == "__main__":
    command.run(_main)
