"""COCO average precision of a trained model on a split, or of detections in a file; and a report on them.

The numbers come from pycocotools (COCOeval, boxes, default parameters). Boxes of results are (x, y, width, height) in
pixels of the original image, as in https://cocodataset.org/#format-results.

    python -m dyhead_jax.evaluate --help
"""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dyhead_jax import command
from dyhead_jax.data import classes
from dyhead_jax.data.source import make_source
from dyhead_jax.evaluation.average_precision import (
    EvaluationError,
    Result,
    ap_line,
    check_format,
    coco_metrics,
    read_ground_truth,
    read_results,
    table,
)
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.files import write_atomic


def _main() -> None:
    parser = command.parser(
        "python -m dyhead_jax.evaluate",
        "COCO average precision of a trained model, or of detections in a file.\n\n"
        "Prints the 12 COCO numbers; the last line is\n  AP <x> AP50 <x> AP75 <x> APs <x> APm <x> APl <x>\n"
        "where -1 means that there is no ground truth of that size.\n\n"
        "--report DIR writes DIR/index.html, one page for a browser: AP by class and size, curves, the score to use,\n"
        "kinds of errors, classes taken for others, the worst images; and the same numbers as DIR/report.json.\n\n"
        "--config.evaluation.NAME=VALUE changes how the model of a workdir is tested: scales, mirror images, merging.",
        "  python -m dyhead_jax.evaluate --workdir /tmp/run\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --step 600 --out /tmp/detections.json\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --config.evaluation.flip=true\n"
        "  python -m dyhead_jax.evaluate --workdir /tmp/run --report /tmp/report   # open /tmp/report/index.html\n"
        "  python -m dyhead_jax.evaluate --annotations instances_val.json --detections detections.json\n"
        "  python -m dyhead_jax.evaluate --annotations instances_val.json --detections detections.json \\\n"
        "      --report /tmp/report --images val",
    )
    parser.add_argument("--workdir", type=Path, help="folder of a training run: config.json and checkpoints/")
    parser.add_argument("--step", type=int, help="step of the checkpoint (default: the latest)")
    command.add_trust(parser)
    parser.add_argument("--split", default="val", choices=("val", "train"), help="split of the data set (default: val)")
    parser.add_argument(classes.OPTION, action="store_true", help=classes.HELP)
    parser.add_argument("--data", help="folder of the data set, if it is not where the config says")
    parser.add_argument("--out", type=Path, help="also write the detections to this JSON file, as COCO results")
    parser.add_argument("--annotations", type=Path, help="COCO instances JSON: the ground truth")
    parser.add_argument(
        "--detections", type=Path, help="COCO results JSON: [{image_id, category_id, bbox, score}, ...]"
    )
    parser.add_argument("--classes", action="store_true", help="also print the AP of each class")
    parser.add_argument("--report", type=Path, metavar="DIR", help="also write a report into this folder")
    parser.add_argument("--images", type=Path, help="folder of the images of --annotations, for the report")
    options = command.parse(parser)
    for argument in options.overrides:
        if not argument.startswith(("--config.evaluation.", "--noconfig.evaluation.")):
            raise command.UsageError(f"{argument!r} is not an option; only config.evaluation may be changed")
    files = options.annotations is not None or options.detections is not None
    if (options.workdir is None) == (not files):
        raise command.UsageError("give either --workdir, or --annotations and --detections (see --help)")
    if options.report is not None and options.report.exists() and not options.report.is_dir():
        raise EvaluationError(f"--report {options.report}: is a file; give a folder")
    if options.images is not None and (not files or options.report is None):
        raise command.UsageError("--images is for --report with --annotations and --detections")
    if options.images is not None and not options.images.is_dir():
        raise EvaluationError(f"--images {options.images}: no such folder")
    if files:
        if options.annotations is None or options.detections is None:
            raise command.UsageError("--annotations and --detections must be given together")
        if options.step is not None or options.out is not None or options.data is not None or options.overrides:
            raise command.UsageError("--step, --out, --data and --config.evaluation need --workdir")
        ground_truth = read_ground_truth(options.annotations)
        results = read_results(options.detections)
        metrics = coco_metrics(ground_truth, results, where=str(options.detections))
        check_format(ground_truth, results, str(options.detections))
        if options.report is not None:
            _report_on_files(options, ground_truth, results, metrics)
    else:
        if options.out is not None and not options.out.parent.is_dir():
            raise EvaluationError(f"--out: the folder {options.out.parent} does not exist")
        ground_truth, metrics, results = _evaluate_workdir(options)
        if options.out is not None:
            write_atomic(options.out, json.dumps(results).encode())
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    print(table(metrics, names if options.classes else None))
    print(ap_line(metrics))


def _evaluate_workdir(options: Any) -> tuple[dict[str, Any], dict[str, Any], list[Result]]:
    # orbax and the model take seconds to import, and scoring a file does not need them
    from dyhead_jax.config import ShapesConfig, flags
    from dyhead_jax.evaluation.trained_model import load_for_inference
    from dyhead_jax.training.parallel import local_variables, map_detect
    from dyhead_jax.training.steps import make_detect

    loaded = load_for_inference(options.workdir, options.step, trust=options.trust)
    config = flags.override(loaded.config, options.overrides) if options.overrides else loaded.config
    data = config.data
    if options.data is not None:
        data = dataclasses.replace(data, root=options.data)
    source = make_source(data, options.workdir)
    if isinstance(data.source, ShapesConfig) and options.data is None and not getattr(source, "is_drawn", True):
        # the config may be a stranger's: what is drawn goes below the folder that was named, not where the config says
        source = make_source(
            dataclasses.replace(data, root="", source=dataclasses.replace(data.source, root="")), options.workdir
        )
    split = source.split(options.split)
    where = f"the model of {options.workdir}"
    split, lines = classes.matched(split, loaded.class_names, where, options.classes_by_number)
    print(f"step {loaded.step}, {len(split)} images of {options.split}", *lines, sep="\n", flush=True)
    detect = partial(map_detect(make_detect(loaded.model)), local_variables(loaded.variables))
    if options.report is None:
        metrics, results = evaluate_split(detect, split, data, evaluation=config.evaluation)
        return split.coco(), metrics, results

    import jax

    from dyhead_jax.evaluation import multiscale
    from dyhead_jax.evaluation.report import setting
    from dyhead_jax.evaluation.report.speed import TimedDetect
    from dyhead_jax.evaluation.report.write import write_report

    timed = TimedDetect(detect)
    metrics, results = evaluate_split(timed, split, data, evaluation=config.evaluation)
    truth = split.coco()
    row_of = {int(image_id): row for row, image_id in enumerate(split.image_ids)}
    about = setting.Setting(
        title=f"Detection report: {command.real(options.workdir).name}",
        data=setting.data_lines(data, options.split),
        model=setting.model_lines(config, str(options.workdir), loaded.step),
        notes=split.notes,
        speed=timed.summary(len(multiscale.passes(data, config.evaluation))),
        no_speed="because no canvas has a second batch, and the first one compiles",
        devices=f"JAX on {jax.device_count()} × {jax.devices()[0].device_kind}",
    )
    write_report(options.report, about, truth, results, metrics, lambda image_id, _: split[row_of[image_id]].image)
    print(f"report in {options.report / 'index.html'}")
    return truth, metrics, results


def _report_on_files(
    options: Any, ground_truth: dict[str, Any], results: list[Result], metrics: dict[str, Any]
) -> None:
    from dyhead_jax.data import frames
    from dyhead_jax.evaluation.report.setting import Setting
    from dyhead_jax.evaluation.report.write import write_report

    sizes = {image["id"]: (image.get("height"), image.get("width")) for image in ground_truth["images"]}

    def read(image_id: int, file_name: str) -> np.ndarray:
        """The picture in the pixels that the boxes refer to."""
        size = sizes[image_id]
        return frames.declared_picture(options.images / file_name, None if None in size else size)

    about = Setting(
        title=f"Detection report: {options.detections.name}",
        data=[("annotations", str(options.annotations)), ("images", str(options.images or "not given"))],
        model=[("detections", str(options.detections))],
        no_speed="because the detections come from a file",
    )
    write_report(options.report, about, ground_truth, results, metrics, read if options.images else None)
    print(f"report in {options.report / 'index.html'}")


if __name__ == "__main__":
    command.run(_main)
