"""Writes a trained model as files for other programs, and compares them with it.

python -m dyhead_jax.export --help
"""

from pathlib import Path
from typing import Any

from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.export.about import ExportError
from dyhead_jax.files import atomic_folder
from dyhead_jax.inference import inputs, pictures

FORMATS = ("safetensors", "stablehlo", "onnx")

DESCRIPTION = """\
Writes a trained model into a new folder, for other programs:

  safetensors   config.json, model.safetensors and a model card, as the Hugging Face Hub keeps them; dyhead_jax.load,
                predict and this command take the folder in place of a workdir
  stablehlo     programs for jax.export, which run with JAX alone on CPUs, CUDA GPUs and TPUs
  onnx          ONNX for onnxruntime and others; with --raw without the non-maximum suppression; one-stage detectors

The last two hold one program a canvas, for any number of pictures at a time; export.json beside them says what they
take and return, docs/export.md how to run them. --check runs the written files on pictures and prints how far they are
from the model; the exit code is 1 if any box is off by more than 0.01 pixels, or a score by more than 0.00001."""

EXAMPLES = """\
  python -m dyhead_jax.export --workdir runs/mine --format safetensors --out mine
  python -m dyhead_jax.export --workdir runs/mine --format stablehlo --out mine_hlo --check photo.jpg folder/
  python -m dyhead_jax.export --model mine --format onnx --out mine_onnx --check 'folder/*.jpg'
  python -m dyhead_jax.export --model mine --format onnx --raw --out mine_raw"""


def _main() -> int:
    parser = command.parser("python -m dyhead_jax.export", DESCRIPTION, EXAMPLES)
    command.add_model_options(parser, "--model")
    parser.add_argument("--format", required=True, choices=FORMATS, help="what to write")
    parser.add_argument("--out", type=Path, required=True, help="the new folder")
    parser.add_argument("--raw", action="store_true", help="onnx: boxes and scores of every anchor, without NMS")
    parser.add_argument("--check", nargs="+", metavar="IMAGE", help="image files, folders or patterns to compare on")
    options = command.parse(parser)
    command.no_overrides(options)
    if options.raw and options.format != "onnx":
        raise command.UsageError("--raw needs --format onnx")
    if options.raw and options.check:
        raise command.UsageError("--check compares detections, which --raw does not write")
    out = options.out
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise ExportError(f"--out {out}: exists; give a new folder")
    if not out.absolute().parent.is_dir():
        raise ExportError(f"--out {out}: the folder {out.absolute().parent} does not exist")
    paths = [path for path in inputs.find(options.check or []).paths if not inputs.is_video(path)]
    if options.check and not paths:
        raise ExportError("--check: no picture among these files")
    images = [pictures.read(path) for path in paths]

    from dyhead_jax.evaluation.trained_model import load_for_inference  # JAX takes a second to import

    loaded = load_for_inference(options.workdir, options.step, trust=options.trust)
    with atomic_folder(out) as hidden:
        _write(hidden, loaded, options)
    for path in sorted(out.iterdir()):
        print(f"{path}  {path.stat().st_size / 1e6:.1f} MB")
    return _check(loaded, options, images) if images else 0


def _write(folder: Path, loaded: Any, options: Any) -> None:
    from dyhead_jax.export import hub_folder, onnx_files, stablehlo

    if options.format == "onnx":
        onnx_files.write(folder, loaded, raw=options.raw)
    else:
        {"safetensors": hub_folder, "stablehlo": stablehlo}[options.format].write(folder, loaded)


def _check(loaded: Any, options: Any, images: list[Any]) -> int:
    from dyhead_jax.export import check, onnx_files, stablehlo
    from dyhead_jax.inference.model import Model, load

    model = Model(loaded)
    data = loaded.config.data
    if options.format == "safetensors":
        detect = load(options.out, trust=options.trust).run
    else:
        detect = {"stablehlo": stablehlo, "onnx": onnx_files}[options.format].open_folder(options.out, data.canvases)
    with tqdm(images, unit="image", desc="check", leave=False, disable=None) as bar:
        difference, ours, theirs = check.check(model.run, detect, list(bar), data, len(loaded.class_names))
    print(
        f"{len(images)} pictures, {difference.boxes} boxes: largest difference {difference.pixels:.2g} pixels,"
        f" {difference.scores:.2g} of score; {difference.alone} boxes of only one"
    )
    print(f"milliseconds a picture: {ours:.1f} the model, {theirs:.1f} {options.format}")
    return 0 if difference.small else 1


if __name__ == "__main__":
    command.run(_main)
