"""python -m dyhead_jax.data check DIR, show --config=FILE --out DIR, and prepare coco."""

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dyhead_jax import command

if TYPE_CHECKING:
    from dyhead_jax.data import check

PREPARE = """\
Packs a data set into array_record files, for fast random access on any disk.

prepare coco takes COCO 2017 as it is published: train2017.zip, val2017.zip and
annotations_trainval2017.zip, or the folders that are in them. Nothing is downloaded. The schema is that of
tfds coco/2017 with sizes, float areas and the file's own boxes added. It needs as much space as the zips.
If it is interrupted, the same command goes on.

examples:
  python -m dyhead_jax.data prepare coco --source /data/coco_zips --out /data/coco
  python train.py --config=configs/atss_r50_dyhead_1x.py --config.data.root=/data/coco ..."""
SHOW = """\
Draws what the network sees, to look at before a training: each row of the batches, with its boxes and class
names, beside the image as it is annotated, and all of them on a contact sheet. The rows are those that training
with the same config sees at the same step. A source that prepares files keeps them in <out>/data.

examples:
  python -m dyhead_jax.data show --config=configs/bccd_lite0.py --config.data.root=mydata --out look
  python -m dyhead_jax.data show --config=configs/bccd_lite0.py --config.data.root=mydata --out look \\
      --config.data.source=dyhead_jax.data.photos:Photos --config.data.mosaic=0.5 --step 100
  python -m dyhead_jax.data show --config=configs/demo_shapes.py --out look --split val --count 4"""
CHECK = """\
Reads a folder of photographs as a training would, to the end, and says what is wrong with it.

DIR has COCO JSON, YOLO or Pascal VOC annotations in any layout that --config=photos:DIR finds. For each part it
prints what would be kept, clipped, scaled, turned, left out, and why; every picture is decoded once. Errors, which
would stop a training, come last, all of them; the exit code is then 1. Nothing is written but the pictures of --out.

examples:
  python -m dyhead_jax.data check photos/
  python -m dyhead_jax.data check photos/ --out doubtful --count 30    # the first doubtful pictures, with boxes
  python -m dyhead_jax.data check photos/ --no-decode                  # headers alone: quick, for large sets
  python -m dyhead_jax.data check photos/ --config.data.source.annotations=labels.json"""
_LINES = 20  # of doubtful images, and of errors of a part


def _main() -> int | None:
    parser = command.parser("python -m dyhead_jax.data", "What to do with a data set before training on it.")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    show = command.add_command(commands, "show", SHOW)
    show.add_argument("--config", metavar="FILE", required=True, help="config file; --config.NAME=VALUE changes it")
    show.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    show.add_argument("--count", type=int, default=16, help="how many pictures (16)")
    show.add_argument("--split", choices=["train", "val"], default="train", help="which part (train)")
    show.add_argument("--step", type=int, default=0, help="the first batch, counted from 0 (0)")
    show.set_defaults(run=_show)

    check = command.add_command(commands, "check", CHECK)
    check.add_argument("folder", type=Path, metavar="DIR", help="folder of the photographs and annotations")
    check.add_argument("--out", type=Path, help="folder for pictures of the first doubtful images, with their boxes")
    check.add_argument("--count", type=int, default=16, help="how many pictures of each part (16)")
    check.add_argument("--no-decode", action="store_true", help="read the headers of the pictures alone")
    check.set_defaults(run=_check)

    prepare = command.add_command(commands, "prepare", PREPARE)
    prepare.add_argument("data_set", choices=["coco"])
    prepare.add_argument("--source", type=Path, required=True, help="folder with the zips, or with what is in them")
    prepare.add_argument("--out", type=Path, required=True, help="folder for the prepared data set")
    prepare.set_defaults(run=_prepare)

    options = command.parse(parser)
    return options.run(options)


def _show(options: argparse.Namespace) -> None:
    if options.count < 1 or options.step < 0:
        raise command.UsageError(f"--count {options.count} must be at least 1 and --step {options.step} at least 0")
    if options.out.exists() and not options.out.is_dir():
        raise command.UsageError(f"--out {options.out} is a file; it must be a folder, or not exist")

    from dyhead_jax.config import flags
    from dyhead_jax.data import fonts, pipeline
    from dyhead_jax.data.show import SHEET, show
    from dyhead_jax.data.source import make_source

    config = flags.override(flags.load_file(options.config), options.overrides)
    split = make_source(config.data, options.out).split(options.split)
    notes = list(split.notes)
    if options.split == "train":
        notes += pipeline.train_images(split, config.data)[1]
    for note in [*notes, *filter(None, [fonts.note(split.class_names)])]:
        print(f"{options.split}: {note}")
    shown = show(
        split,
        config,
        options.out,
        name=options.split,
        count=options.count,
        step=options.step,
        progress=sys.stderr.isatty(),
    )
    if not shown.files:
        raise ValueError(f"the {options.split} part has no batch {options.step}: it is counted from 0 (--step)")
    print(f"wrote {len(shown.files) - 1} pictures and {SHEET} into {options.out}")
    print(f"{shown.boxes} boxes as the network sees them, {shown.left_out} left out by the transforms")


def _check(options: argparse.Namespace) -> int:
    if options.out is not None and options.out.exists() and not options.out.is_dir():
        raise command.UsageError(f"--out {options.out} is a file; it must be a folder, or not exist")

    from dyhead_jax.config import Config, DataConfig, PhotosConfig, flags
    from dyhead_jax.data import check
    from dyhead_jax.data.photos import Photos
    from dyhead_jax.data.source import DataError, make_source

    config = Config(data=DataConfig(source=PhotosConfig(root=str(options.folder))))
    config = flags.override(config, options.overrides)
    source = make_source(config.data, "")
    if not isinstance(source, Photos):
        raise DataError("config.data.source: check reads folders of photographs (dyhead_jax.data.photos:Photos)")
    layout = source.layout()
    print(f"found {layout.kind} ({layout.where})")
    print(*(f"  {note}" for note in layout.notes), sep="\n", end="\n" if layout.notes else "")
    errors, doubtful = 0, 0
    for name, part in layout.parts.items():
        show = sys.stderr.isatty()
        result = check.check(part, config.data.source.box_frame, decode=not options.no_decode, progress=show)
        print(*_about(name, result), sep="\n")
        if options.out is not None:
            drawn = list(check.draw(result, options.out, name, options.count))
            print(f"  {len(drawn)} pictures of them in {options.out}")
        for error in result.errors[:_LINES]:
            print(f"error: {command.one_line(error)}", file=sys.stderr)
        if len(result.errors) > _LINES:
            print(f"error: {len(result.errors) - _LINES} more errors in {name}", file=sys.stderr)
        errors, doubtful = errors + len(result.errors), doubtful + len(result.doubtful)
    print(f"{errors} errors, {doubtful} doubtful images")
    return 1 if errors else 0


def _about(name: str, result: "check.Checked") -> Iterator[str]:
    """The lines on a part."""
    index = result.index
    if index is None:
        yield f"{name}: cannot be used"
        return
    crowd = int(index.crowd.sum())
    boxes = len(index.labels) - crowd
    yield f"{name}: {len(index.file_names)} images, {boxes} boxes to train on, {crowd} crowd regions"
    yield from (f"  {note}" for note in result.notes)
    counts = np.bincount(index.labels[~index.crowd], minlength=len(index.class_names)).tolist()
    pairs = sorted(zip(index.class_names, counts, strict=True), key=lambda pair: -pair[1])
    yield "  boxes by class: " + ", ".join(f"{own} {count}" for own, count in pairs)
    yield f"  {len(result.doubtful)} doubtful images"
    for row in itertools.islice(result.doubtful, _LINES):
        yield f"    {command.one_line(index.file_names[row])}: {result.doubtful[row]}"
    if len(result.doubtful) > _LINES:
        yield f"    and {len(result.doubtful) - _LINES} more"


def _prepare(options: argparse.Namespace) -> None:
    command.no_overrides(options)

    from dyhead_jax.data.packing.coco_release import SPLITS, prepare_coco

    counts = prepare_coco(options.source, options.out)
    for split, count in counts.items():
        resumed = f" ({count.resumed} of them packed before)" if count.resumed else ""
        print(f"{SPLITS[split]}: {count.images} images{resumed}, {count.boxes} boxes")
    print(f"{options.out} is complete")


if __name__ == "__main__":
    command.run(_main)
