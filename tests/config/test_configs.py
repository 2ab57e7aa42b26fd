"""Every file in configs/, with every argument that it documents: it loads, its model builds, it survives --help, and at
a width of a few channels it takes a training step."""

import dataclasses
import itertools
import re
from pathlib import Path

import jax
import numpy as np
import pytest

from dyhead_jax import config as schema
from dyhead_jax.backbones import resnet
from dyhead_jax.config import flags
from dyhead_jax.detectors import build
from dyhead_jax.training import optim, overview, parallel, steps
from dyhead_jax.types import Batch, GroundTruth
from tests.tiny_detector import quickly_compiled

FOLDER = Path(__file__).resolve().parents[2] / "configs"
NEED_A_FOLDER = ("photos", "photos_grid")  # of photographs: tests/data/test_fit.py
FILES = sorted(path for path in FOLDER.glob("*.py") if path.stem not in NEED_A_FOLDER)
SUBSETS = [",".join(s) for n in range(1, 4) for s in itertools.combinations(("scale", "spatial", "task"), n)]
GRIDS = {"ablation": ["none", *SUBSETS], "depth": ["0", "1", "2", "10"]}
ROWS = re.compile(
    r"(atss|retinanet|fcos|reppoints|faster_rcnn|borderdet)_"
    r"(r50|r101|x101_64x4d|x101_64x4d_dcn|swin_[tsbl])(_dyhead)?_[12]x"
)


def docstring(path: Path) -> str:
    return path.read_text().split('"""')[1]


def arguments(path: Path) -> list[str]:
    """What may follow --config=: the file alone, and with each argument of its documented commands."""
    documented = re.findall(rf"--config=configs/{path.name}:([\w,]+)", docstring(path))
    return [str(path), *(f"{path}:{text}" for text in GRIDS.get(path.stem, documented))]


ARGUMENTS = [argument for path in FILES for argument in arguments(path)]


def name(argument: str) -> str:
    return Path(argument).name.replace(".py", "")


def once(keys: list[str]) -> list[str]:
    """The arguments without those whose key an earlier one has."""
    first = {key: argument for argument, key in reversed(list(zip(ARGUMENTS, keys, strict=True)))}
    return sorted(first.values())


CONFIGS = {argument: flags.load_file(argument) for argument in ARGUMENTS}
ALIKE = [f"{FOLDER / 'ablation.py'}:{on}" for on in SUBSETS[:-1]]  # tests/dyhead has their blocks
ALIKE += [f"{FOLDER / 'depth.py'}:{blocks}" for blocks in GRIDS["depth"][2:]]  # more of the same
ALIKE += [a for a in ARGUMENTS if Path(a).name.startswith("variants.py:")]  # tests/variants
# whose steps are those with DyHead and that of atss_r50_1x
PLAIN = re.compile(r"^atss_(r101|x101_64x4d(_dcn)?|swin_.)_[12]x$")
# of those that `make test` traces too, one a backbone and one a head; the others are left to `make test-all`
SHORT_BUILDS = re.compile("^(fcos_r50_1x|bccd_lite0|atss_swin_t_2x)$")
MODELS = [a for a in once([repr(config.model) for config in CONFIGS.values()]) if a not in ALIKE]


@pytest.mark.parametrize("argument", ARGUMENTS, ids=name)
def test_it_is_valid(argument):
    config = CONFIGS[argument]
    schema.validate(config)
    assert schema.from_json(schema.to_json(config)) == config


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_it_says_how_to_run_it(path, capsys):
    text = docstring(path)
    assert f"--config=configs/{path.name}" in text
    if ROWS.fullmatch(path.stem) or path.stem in GRIDS:
        assert re.search(r"^Rows?\b", text, re.MULTILINE), "no row"
        assert all(part in text for part in ("Schedule: ", "Meant for ", "Not run.", "--workdir=runs/"))
    assert flags.parse(flags.parser("train.py", "Trains."), [f"--config={path}", "--help"]) is None
    shown = capsys.readouterr().out
    assert text.strip().splitlines()[0] in shown
    assert "--config.model.dyhead.num_blocks=" in shown


LITE0 = sorted(a for a, c in CONFIGS.items() if c.model.pretrained == "efficientnet-lite0")


@pytest.mark.parametrize("argument", LITE0, ids=name)
def test_lite0_sees_pixels_as_in_its_own_training(argument):
    model = CONFIGS[argument].model
    assert (model.pixel_mean, model.pixel_std, model.bgr) == ((127.0,) * 3, (128.0,) * 3, False)


@pytest.mark.parametrize("argument", [a for a in LITE0 if not a.endswith(":pconv")], ids=name)  # has no offsets
def test_adam_moves_offsets_at_a_twentieth(argument):
    """As the README says of the configs with AdamW on small data."""
    assert (CONFIGS[argument].optim.name, CONFIGS[argument].optim.offset_rate) == ("adamw", 0.05)


def test_the_backbone_of_small_data_learns_at_the_rate_of_its_config():
    rates = {stem: CONFIGS[str(FOLDER / f"{stem}.py")].optim.backbone_rate for stem in ("bccd_lite0", "demo_shapes")}
    assert rates == {"bccd_lite0": 0.1, "demo_shapes": 0.15}


def test_every_published_row_has_a_file():
    published = (
        "50.7 50.3 43.0 46.5 47.7 54.0 58.7 60.6 40.3 39.9 42.4 49.8 42.5 43.3 56.2 39.4 36.5 36.6 38.7 37.0 37.4"
    )
    texts = " ".join(docstring(path) for path in FILES)
    assert [row for row in published.split() if row not in texts] == []
    named = [ROWS.fullmatch(path.stem) for path in FILES]
    assert {match[1] for match in named if match and match[3]} == {
        "atss", "retinanet", "fcos", "reppoints", "faster_rcnn", "borderdet"
    }  # fmt: skip
    stems = {path.stem for path in FILES}
    assert {stem.replace("_dyhead", "") for stem in stems} <= stems  # each with its baseline
    assert CONFIGS[str(FOLDER / "atss_x101_64x4d_dcn_dyhead_2x.py")].evaluation.flip


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("ablation.py:scale,color", ":scale,color is not known"),
        ("ablation.py:scale,scale", ":scale,scale is not known"),
        ("depth.py:11", ":11 does not exist; it may be :0, :1"),
        ("fcos_r50_1x.py:better", ":better does not exist; it may be :plain, :improved"),
        ("atss_r50_1x.py:x", r"get_config\(\) takes no argument"),
    ],
)
def test_a_wrong_argument_is_named(argument, message):
    with pytest.raises(schema.ConfigError, match=rf"{argument.partition(':')[0]}: {message}"):
        flags.load_file(str(FOLDER / argument))


def test_the_grids_mean_what_they_say():
    for on in GRIDS["ablation"]:
        dyhead = CONFIGS[f"{FOLDER / 'ablation.py'}:{on}"].model.dyhead
        found = {part for part in ("scale", "spatial", "task") if getattr(dyhead, part).module != "none"}
        assert found == set(on.split(",")) - {"none"}
    for blocks in GRIDS["depth"]:
        model = CONFIGS[f"{FOLDER / 'depth.py'}:{blocks}"].model
        assert (model.dyhead.num_blocks, model.head.towers) == (int(blocks), 0 if int(blocks) else 4)


@pytest.mark.parametrize(
    "argument",
    [pytest.param(a, marks=[] if SHORT_BUILDS.search(name(a)) else pytest.mark.long) for a in MODELS],
    ids=name,
)
def test_its_model_builds(argument):
    model = CONFIGS[argument].model
    parameters = steps.survey(build(model), (64, 64))
    overview.describe(parameters, parallel.Single(), CONFIGS[argument])  # no learning rate is for nothing
    blocks = {part for part in parameters.shapes["params"].get("dyhead", {}) if part.startswith("block")}
    assert len(blocks) == model.dyhead.num_blocks
    if name(argument) == "atss_r50_dyhead_1x:reproduction":  # mmdetection counts 38.90 M
        assert round(sum(leaf.size for leaf in jax.tree.leaves(parameters.shapes["params"])) / 1e6, 2) == 38.90


# One training step of each kind of model


def reduced(config: schema.Config) -> schema.Config:
    """The same experiment, narrow and shallow, on two levels. What only has to do with lineage, initial weights or
    inference is left at its defaults, and backbones other than a ResNet meet ATSS only (a head sees nothing but maps),
    so that one step stands for all configs that differ in nothing else."""
    config = schema.from_json(schema.to_json(config))
    backbone, dyhead, head = config.model.backbone, config.model.dyhead, config.model.head
    if not isinstance(head, schema.ATSSConfig):
        backbone = schema.ResNetConfig(depth=18, width=4)
    elif isinstance(backbone, schema.ResNetConfig):
        kept = {"groups": min(backbone.groups, 4), "group_width": backbone.group_width}
        kept |= {"deform": backbone.deform, "deform_stages": backbone.deform_stages}
        backbone = schema.ResNetConfig(width=8, **kept)
    elif isinstance(backbone, schema.SwinConfig):
        backbone = schema.SwinConfig(features=8, depths=(2, 1, 1, 1), heads=(1, 2, 4, 8), window=4)
    else:
        backbone = schema.EfficientNetLiteConfig(frozen_stages=7)  # its backward pass alone takes 20 s to compile
    on = {part: getattr(dyhead, part) for part in ("scale", "spatial", "task")}
    if isinstance(head, schema.ATSSConfig):
        head = schema.ATSSConfig(towers=head.towers)
    small = {
        "towers": 1, "level_limits": (32.0,), "rpn_features": 16, "rpn_samples": 16, "proposals_before": (32, 16),
        "proposals": (16, 16), "roi_levels": 2, "roi_samples": 16, "fc_features": 16, "border_class_features": 8,
        "border_box_features": 8,
    }  # fmt: skip
    for field in {f.name for f in dataclasses.fields(head)} & set(small):
        setattr(head, field, min(head.towers, 1) if field == "towers" else small[field])
    return schema.Config(
        model=schema.ModelConfig(
            num_classes=3,
            backbone=backbone,
            neck=schema.FPNConfig(features=32, start=2, levels=2),
            dyhead=schema.DyHeadConfig(num_blocks=min(dyhead.num_blocks, 1), features=32, **on),
            head=head,
        ),
        optim=schema.OptimConfig(name=config.optim.name, learning_rate=1e-3, warmup_steps=0),
    )


REDUCED = {argument: reduced(config) for argument, config in CONFIGS.items()}
STEPS = [a for a in once([repr(c) for c in REDUCED.values()]) if a not in ALIKE and not PLAIN.match(name(a))]


def make_batch() -> Batch:
    draw = np.random.default_rng(0)
    boxes = np.array([[4, 4, 24, 30], [20, 8, 60, 56], [0, 0, 0, 0]], np.float32)
    return Batch(
        images=draw.integers(0, 256, (2, 64, 64, 3), np.uint8),
        ground_truth=GroundTruth(
            boxes=np.stack([boxes, boxes]),
            labels=np.array([[0, 2, 0], [1, 1, 0]], np.int32),
            mask=np.array([[True, True, False], [True, False, False]]),
            crowd=np.zeros((2, 3), bool),
            sizes=np.array([[64, 64], [60, 50]], np.int32),
        ),
    )


@pytest.mark.long
@pytest.mark.parametrize("argument", STEPS, ids=name)
def test_it_takes_a_training_step(argument, monkeypatch):
    monkeypatch.setitem(resnet.DEPTHS, 18, (False, (1, 1, 1, 1)))
    monkeypatch.setitem(resnet.DEPTHS, 50, (True, (1, 1, 1, 1)))
    config = REDUCED[argument]
    model = build(config.model)
    parameters = steps.survey(model, (64, 64))
    optimizer = optim.make_optimizer(config.optim, 10, parameters)
    step = steps.make_train_step(model, optimizer, optim.make_schedule(config.optim, 10), parameters)

    shapes = parameters.shapes
    draw = np.random.default_rng(0)  # initial weights of the model's own would have to be compiled too
    variables = {
        "params": jax.tree.map(lambda x: draw.normal(0, 0.1, x.shape).astype(x.dtype), shapes["params"]),
        "batch_stats": jax.tree.map(lambda x: np.ones(x.shape, x.dtype), shapes["batch_stats"]),
    }
    before = steps.create_state(parameters, optimizer, variables)
    after, metrics = quickly_compiled(jax.jit(step), before, make_batch())(before, make_batch())
    assert all(np.isfinite(value) for value in jax.tree.leaves(metrics)), metrics
    assert metrics["loss"] > 0
    trained, frozen = optim.partition(
        jax.tree.map(lambda a, b: np.any(a != b), before.params, after.params), parameters.is_frozen
    )
    assert not any(jax.tree.leaves(frozen))
    for part, changed in trained.items():
        assert any(jax.tree.leaves(changed)), f"{part} did not change"
