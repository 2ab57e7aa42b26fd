"""Converts weights of PyTorch detectors and backbones to a workdir for train.py, evaluate and predict, and back.

python -m dyhead_jax.convert --help
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dyhead_jax import command, detectors
from dyhead_jax.config import Config, flags
from dyhead_jax.data import classes, coco_json
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.training import optim, steps, workdir
from dyhead_jax.training.checkpoint import Checkpoints, make_meta
from dyhead_jax.training.stored import check_name
from dyhead_jax.weights import files, finite, layouts, provenance, state_dict
from dyhead_jax.weights.pretrained import below

DESCRIPTION = """\
Converts PyTorch weights to the workdir of a run at step 0, for evaluate, predict and train.py, and back.

FILE is a .safetensors (preferred: it contains no code), .pth, .pt, .pkl or .npz; pickles are read without running
code, and what lies beside the weights is left there. The names in it tell its layout:
  whole detectors    of mmdetection 2 and 3 (layout mmdet), of DynamicHead and detectron2 (layout official)
  backbones alone    ResNet, ResNeXt, Swin of torchvision, timm, mmdetection, detectron2, MSRA's R-50.pkl and R-101.pkl;
                     neck, DyHead and head then keep their initialisation
Every parameter of both sides is accounted for in the output; if anything does not fit, that is an error and nothing is
written. train.py with the same --config and --workdir starts from these weights with a fresh optimiser."""

EXAMPLES = """\
  python -m dyhead_jax.convert atss_r50.pth --config=configs/FILE.py --workdir=runs/converted
  python -m dyhead_jax.convert R-50.pkl --config=configs/FILE.py --config.seed=1 --workdir=runs/from_imagenet
  python -m dyhead_jax.convert --to-torch --workdir=runs/mine --layout=mmdet --out=mine.safetensors"""


class ConvertError(ValueError):
    """Weights do not fit, or a folder is in use; the message names the file or folder."""


@dataclass(frozen=True)
class Conversion:
    """variables: of the whole detector, host arrays. part: what was converted, "backbone" or "" for all.
    match: for that part. outside: names in the file that do not belong to the part and were left out."""

    variables: dict[str, Any]
    match: state_dict.Match
    layout: str
    part: str
    outside: tuple[str, ...]


def convert(
    config: Config, arrays: Mapping[str, np.ndarray], layout: str = "", *, backbone_only: bool = False
) -> Conversion:
    """The variables of the config's detector, taken from the arrays of a PyTorch checkpoint by name.

    layout: one of `layouts.ALL`; "" detects it. Parameters that the file lacks (for a backbone file, all outside the
    backbone) are initialised as in a new model with config.seed; if there are none, nothing is initialised.
    Raises LayoutError, NamesError and, for weights with a NaN, NotFiniteError.
    """
    model = detectors.build(config.model)

    def first() -> dict[str, Any]:
        return steps.init_variables(model, jax.random.key(config.seed), config.data.canvases[0])

    shapes = jax.eval_shape(first)
    own = layouts.declared(config.model.backbone)
    layout = layout or layouts.detect(arrays, own)
    if layout in layouts.WHOLE and not backbone_only:
        match = state_dict.match(layouts.detector(config.model, layout), arrays, shapes)
        finite.check(match.variables, "its weights")
        return Conversion(_complete(match.variables, first), match, layout, "", ())
    backbone = layouts.find_backbone(arrays, "" if layout in layouts.WHOLE else layout, own)
    wanted = {name: tree["backbone"] for name, tree in shapes.items() if "backbone" in tree}
    match = state_dict.match(backbone.table, below(arrays, backbone.prefix), wanted)
    finite.check(match.variables, "its weights")
    filled = {
        name: {**tree, "backbone": match.variables[name]} if name in wanted else tree for name, tree in shapes.items()
    }
    outside = tuple(name for name in arrays if not name.startswith(backbone.prefix))
    return Conversion(_complete(filled, first), match, backbone.layout, "backbone", outside)


def _complete(variables: dict[str, Any], first: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`variables`, with leaves that are only shapes taken from `first()`; nothing else of it is computed."""
    leaves, structure = jax.tree.flatten(variables)
    lacking = [i for i, leaf in enumerate(leaves) if isinstance(leaf, jax.ShapeDtypeStruct)]
    if lacking:

        def draw() -> list[jax.Array]:
            started = jax.tree.leaves(first())
            return [started[i] for i in lacking]

        for i, value in zip(lacking, jax.device_get(steps.jit_once(draw)()), strict=True):
            leaves[i] = value
    return jax.tree.unflatten(structure, leaves)


def report(conversion: Conversion, arrays: Mapping[str, np.ndarray]) -> list[str]:
    """What was matched, and what was left over on either side and why, one line for each kind."""
    match = conversion.match
    counts = {
        collection: sum(leaf.size for leaf in jax.tree.leaves(tree)) for collection, tree in match.variables.items()
    }
    kept = sum(int(np.prod(leaf.shape)) for leaf in _leaves(match.variables, match.kept))
    lines = [
        f"layout {conversion.layout}, {len(arrays)} arrays",
        f"matched: {len(match.names)} arrays, {counts['params'] - kept:,} parameters"
        + (f" and {counts['batch_stats']:,} batch statistics" if counts.get("batch_stats") else ""),
    ]
    for reason, number in Counter(match.left.values()).items():
        first = next(name for name, why in match.left.items() if why == reason)
        lines.append(f"left in the file: {number} arrays like {first}: {reason}")
    if conversion.outside:
        lines.append(
            f"left in the file: {len(conversion.outside)} arrays like {conversion.outside[0]}: not the backbone"
        )
    if match.constant:
        lines.append(f"not in the file: {len(match.constant)} batch statistics, which its format folds into the norms")
    if match.kept:
        lines.append(f"not in the file: {kept:,} parameters of {', '.join(match.kept)}: they start as in a new model")
    if conversion.part:
        others = {name: tree for name, tree in conversion.variables["params"].items() if name != conversion.part}
        rest = sum(int(np.size(leaf)) for leaf in jax.tree.leaves(others))
        lines.append(f"not in the file: {rest:,} parameters of {', '.join(others)}: they start as in a new model")
    elif not match.kept:
        lines.append("left in the model: nothing")
    return lines


def _leaves(tree: Any, paths: tuple[str, ...]) -> list[Any]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return [leaf for keys, leaf in flat if jax.tree_util.keystr(keys, simple=True, separator="/") in paths]


def write_workdir(
    folder: Path, config: Config, variables: Mapping[str, Any], names: tuple[str, ...], ids: tuple[int, ...]
) -> None:
    """Writes a checkpoint of step 0 with a fresh optimiser, and config.json last: only that makes the folder a run."""
    model = detectors.build(config.model)
    parameters = steps.survey(model, config.data.canvases[0])
    optimizer = optim.make_optimizer(config.optim, config.run.steps, parameters)
    state = jax.device_get(steps.create_state(parameters, optimizer, variables, ema=config.optim.ema))
    folder.mkdir(parents=True, exist_ok=True)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(state, make_meta(config, names, ids))
        checkpoints.wait()
    workdir.claim(folder, config)


def check_unused(folder: Path) -> None:
    """Raises ConvertError if the folder belongs to a run, or is a file, and CheckpointError for an unreadable name."""
    check_name(command.real(folder / "checkpoints"))
    if folder.exists() and not folder.is_dir():
        raise ConvertError(f"--workdir={folder} is a file; it must be a folder, or not exist")
    taken = [name for name in ("config.json", "checkpoints", "metrics.jsonl") if (folder / name).exists()]
    if taken:
        raise ConvertError(f"{folder} already has {taken[0]}, which is not overwritten; choose another --workdir")


def to_torch(folder: Path, step: int | None, layout: str, out: Path, trust: Sequence[str] = ()) -> str:
    """Writes a run's weights (averaged, if it has them) under PyTorch names; returns a line that describes the file.

    trust: packages beside this one whose classes its config may name."""
    files.check_writable(out)
    loaded = load_for_inference(folder, step, trust=trust)
    table = layouts.detector(loaded.config.model, layout)
    arrays = state_dict.save(table, loaded.variables)
    files.write(out, arrays)
    count = sum(leaf.size for leaf in jax.tree.leaves(loaded.variables["params"]))
    return (
        f"{out}: step {loaded.step} of {folder}, {len(arrays)} arrays, {count:,} parameters, layout {layout}; without"
        " the buffers that PyTorch computes itself (counters, index tables): load_state_dict(..., strict=False)"
    )


def _hint(config: Config, layout: str) -> str:
    dyhead = config.model.dyhead
    if layout in layouts.WHOLE and dyhead.num_blocks and dyhead.dcn_bias != (layout == "official"):
        return f" (its deformable convolutions: --config.model.dyhead.dcn_bias={layout == 'official'})"
    return ""


def _from_torch(options: Any, config: Config, folder: Path) -> None:
    check_unused(folder)
    categories = None
    if options.categories is not None:
        index = coco_json.load(options.categories, limit=1)
        categories = list(zip(index.class_names, index.category_ids, strict=True))
    arrays, meta, unread = files.read(options.file, options.key)
    layout = options.layout
    try:
        layout = layout or layouts.detect(arrays, layouts.declared(config.model.backbone))
        conversion = convert(config, arrays, layout, backbone_only=options.backbone_only)
        names, ids, origin = provenance.categories(
            provenance.class_names(meta),
            config.model.num_classes,
            categories,
            by_number=options.classes_by_number,
            backbone=bool(conversion.part),
        )
    except ValueError as error:
        raise ConvertError(f"{options.file}: {error}{_hint(config, layout)}") from error
    lines = report(conversion, arrays)
    wanted, reason = provenance.pixels(arrays, meta, conversion.layout, config.model)
    own = provenance.configured(config.model)
    lines.append(f"input: {own}, by the config" + ("" if wanted else "; the file does not tell what it was trained on"))
    if wanted is not None and not provenance.same(wanted, own):
        lines.append(f"warning: the weights want {wanted}: {reason}; give {wanted.options()}")
    if unread:
        lines.append(f"not read, and nothing of it run: {len(unread)} other kinds of objects, such as {unread[0]}")
    lines.append(f"classes: {len(names)}, {origin}")
    if options.list:
        lines += [f"  {name} -> {path}" for path, name in conversion.match.names.items()]
        lines += [f"  {name}: {why}" for name, why in conversion.match.left.items()]
    print(f"{options.file}:", *lines, sep="\n  ")
    write_workdir(folder, config, conversion.variables, names, ids)
    print(f"{folder}: step 0")


def _main() -> None:
    parser = command.parser("python -m dyhead_jax.convert", DESCRIPTION, EXAMPLES)
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="weights of PyTorch")
    parser.add_argument(
        "--config", help="config file of the detector; --config.<name>=<value> changes it, as in train.py"
    )
    parser.add_argument(
        "--workdir", type=Path, required=True, help="folder to create; with --to-torch the folder of the run"
    )
    parser.add_argument("--layout", default="", choices=layouts.ALL, help="layout of the names (default: detected)")
    parser.add_argument("--backbone-only", action="store_true", help="take only the backbone of a whole detector")
    parser.add_argument("--key", default="", help="entry of FILE with the weights (default: state_dict or model)")
    parser.add_argument("--categories", type=Path, help="COCO instances JSON with the category ids of the classes")
    parser.add_argument(classes.OPTION, action="store_true", help="take the names of --categories by their numbers")
    parser.add_argument("--list", action="store_true", help="also print where each name went")
    parser.add_argument(
        "--to-torch", action="store_true", help="convert back: needs --layout mmdet or official, and --out"
    )
    parser.add_argument("--out", type=Path, help="with --to-torch: .safetensors or .npz file to write")
    parser.add_argument("--step", type=int, help="with --to-torch: step of the checkpoint (default: the latest)")
    command.add_trust(parser)
    options = command.parse(parser)
    if options.to_torch:
        names = ("file", "config", "key", "categories", "classes_by_number")
        given = [name for name in names if getattr(options, name)]
        if given or options.overrides or options.backbone_only or options.list:
            raise command.UsageError("--to-torch takes only --workdir, --layout, --out, --step and --trust")
        if options.layout not in layouts.WHOLE or options.out is None:
            raise command.UsageError(f"--to-torch needs --out=FILE and --layout={' or '.join(layouts.WHOLE)}")
        print(to_torch(options.workdir, options.step, options.layout, options.out, options.trust))
        return
    if options.file is None or options.config is None:
        raise command.UsageError("give FILE and --config=FILE (see --help)")
    if options.out is not None or options.step is not None or options.trust:
        raise command.UsageError("--out, --step and --trust need --to-torch")
    config = flags.override(flags.load_file(options.config), options.overrides)
    _from_torch(options, config, options.workdir)


if __name__ == "__main__":
    command.run(_main)
