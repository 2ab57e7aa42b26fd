"""Starting from another model: what fits is taken, classes keep their weights by name, the rest is named."""

import dataclasses

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

from dyhead_jax import config as schema
from dyhead_jax import detectors
from dyhead_jax.detectors.atss import ATSS
from dyhead_jax.detectors.borderdet import BorderDet
from dyhead_jax.detectors.faster_rcnn import FasterRCNN
from dyhead_jax.detectors.retinanet import RetinaNet
from dyhead_jax.training import initial, optim, steps
from dyhead_jax.types import Batch
from dyhead_jax.weights import files, layouts, provenance, state_dict
from dyhead_jax.weights.npz import WeightsFileError
from tests.detectors import tiny

OLD, NEW = ("cat", "dog", "cow"), ("bird", " Dog ", "cat", "sheep")
PIXELS = provenance.Pixels((127.0, 127.0, 127.0), (128.0, 128.0, 128.0), bgr=False)
SMALL_ROI = {"fc_features": 8, "roi_levels": 2, "rpn_features": 8}


def parameters_of(detector, classes, **options):
    model = dataclasses.replace(tiny.make(detector, **options), num_classes=classes)
    return steps.survey(model, tiny.CANVAS)


def flat(tree):
    return dict(flatten_dict(tree))


def known(parameters, names=()):
    return initial.OtherModel(flat(random(parameters.shapes, 0)), names)


def random(shapes, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(leaf.dtype), shapes)


@pytest.mark.parametrize(
    ("detector", "options", "expected"),
    [
        (ATSS, {}, {("class_predictor",): "classes"}),
        (RetinaNet, {}, {("class_predictor",): "classes"}),  # nine anchors a cell
        (
            BorderDet,
            {"level_limits": (64.0, 128.0), "norm_groups": 4},
            {("class_predictor",): "classes", ("border_class_predictor",): "classes"},
        ),
        (
            FasterRCNN,
            SMALL_ROI,
            {
                ("roi_head", "class_predictor"): "classes, background",
                ("roi_head", "box_predictor"): "classes x boxes",
            },
        ),
    ],
)
def test_classes_keep_their_weights_by_name(detector, options, expected):
    old, new = parameters_of(detector, len(OLD), **options), parameters_of(detector, len(NEW), **options)
    before, drawn = random(old.shapes, 0), random(new.shapes, 1)
    start = initial.start(initial.OtherModel(flat(before), OLD), new, NEW, PIXELS, "runs/old")
    filled = start.fill(unflatten_dict(flatten_dict(drawn, keep_empty_nodes=True) | flatten_dict(start.given)))
    before, after, drawn = (flatten_dict(tree["params"]) for tree in (before, filled, drawn))
    assert {path[:-1] for path in new.classes} == set(expected)
    assert "classes that keep their weights:  Dog , cat; new: bird, sheep" in start.notes
    for path, value in after.items():
        layout = expected.get(path[:-1])
        if layout is None:
            np.testing.assert_array_equal(value, before[path])
            continue
        for channel in range(value.shape[-1]):  # one at a time
            if layout == "classes":
                anchor, label = divmod(channel, len(NEW))
                names, place = NEW[label], lambda old, anchor=anchor: anchor * len(OLD) + old
            elif layout == "classes, background":
                names, place = (*NEW, "background")[channel], lambda old: old
            else:
                label, side = divmod(channel, 4)
                names, place = NEW[label], lambda old, side=side: old * 4 + side
            name = names.strip().lower()
            known = (*OLD, "background") if layout == "classes, background" else OLD
            source = before[path][..., place(known.index(name))] if name in known else drawn[path][..., channel]
            np.testing.assert_array_equal(value[..., channel], source)


def test_a_wider_pyramid_keeps_the_backbone_and_names_the_rest():
    old = parameters_of(ATSS, 3)
    wide = dataclasses.replace(tiny.make(ATSS), neck=dataclasses.replace(tiny.make(ATSS).neck, features=32))
    wide = dataclasses.replace(wide, dyhead=dataclasses.replace(wide.dyhead, features=32))
    new = steps.survey(wide, tiny.CANVAS)
    start = initial.start(known(old, OLD), new, OLD, PIXELS, "W")
    assert set(start.given["params"]["backbone"]) == {"stem", "conv_0", "conv_1", "conv_2"}
    anew = next(line for line in start.notes if line.startswith("start anew, of another shape"))
    assert "neck" in anew
    assert "dyhead" in anew
    assert "backbone" not in anew


def test_other_blocks_start_anew_and_superfluous_ones_are_named():
    one, two = parameters_of(ATSS, 3), parameters_of(ATSS, 3, blocks=2)
    start = initial.start(known(one, OLD), two, OLD, PIXELS, "W")
    assert any(line.startswith("start anew, not in it: dyhead (") for line in start.notes)
    start = initial.start(known(two, OLD), one, OLD, PIXELS, "W")
    assert any(line.startswith("no place here for dyhead (") for line in start.notes)


def test_weights_of_unknown_classes_are_taken_in_order_or_not_at_all():
    three, four = parameters_of(ATSS, 3), parameters_of(ATSS, 4)
    start = initial.start(known(three), three, NEW[:3], PIXELS, "W")
    assert ("params", "class_predictor", "kernel") in flatten_dict(start.given)
    assert any("taken in their order" in line for line in start.notes)
    start = initial.start(known(three), four, NEW, PIXELS, "W")
    assert ("params", "class_predictor", "kernel") not in flatten_dict(start.given)
    assert any("of another shape in it: class_predictor (2 arrays)" in line for line in start.notes)


def test_all_that_has_no_place_is_counted():
    parameters = parameters_of(ATSS, 3)
    other = known(parameters)
    other.arrays["params", "teacher", "kernel"] = np.zeros(2)
    other = dataclasses.replace(other, left=("ema.a", "ema.b"))
    notes = initial.start(other, parameters, OLD, PIXELS, "W").notes
    assert "no place here for teacher (1 array)" in notes
    assert "no place here for 2 arrays of the file, such as ema.a" in notes


def test_weights_that_want_other_pixels_are_a_warning():
    parameters = parameters_of(ATSS, 3)
    other = dataclasses.replace(known(parameters), pixels=PIXELS)
    assert not any("warning" in line for line in initial.start(other, parameters, OLD, PIXELS, "W").notes)
    own = dataclasses.replace(PIXELS, bgr=True)
    (warning,) = (line for line in initial.start(other, parameters, OLD, own, "W").notes if "warning" in line)
    assert "these weights want RGB, mean 127 127 127" in warning
    assert "give --config.model.bgr=False" in warning


def test_nothing_that_fits_is_an_error():
    with pytest.raises(initial.InitialError, match=r"config\.model\.init=x: nothing in it fits this model"):
        initial.start(initial.OtherModel({("params", "other"): np.zeros(2)}), parameters_of(ATSS, 3), OLD, PIXELS, "x")


def test_a_file_has_the_names_of_this_package_or_of_another(tmp_path):
    model = schema.ModelConfig(num_classes=3, backbone=schema.ResNetConfig(depth=18, width=8))
    model.neck.features = model.dyhead.features = 32
    model.dyhead.num_blocks = 1
    model.dyhead.dcn_bias = False
    parameters = steps.survey(detectors.build(model), (64, 64))
    variables = random(parameters.shapes, 0)
    files.write(tmp_path / "own.npz", {"/".join(path): leaf for path, leaf in flatten_dict(variables).items()})
    files.write(tmp_path / "mmdet.npz", state_dict.save(layouts.detector(model, "mmdet"), variables))
    for name in ("own.npz", "mmdet.npz"):
        start = initial.start(initial.read(tmp_path / name, model), parameters, OLD, PIXELS, name)
        given = flatten_dict(start.given)
        assert set(given) == set(flatten_dict(variables)), name
        for path, leaf in given.items():
            np.testing.assert_array_equal(leaf, flatten_dict(variables)[path])
    with pytest.raises(WeightsFileError, match=r"absent\.npz"):
        initial.read(tmp_path / "absent.npz", model)


@pytest.mark.long
def test_a_trained_model_starts_lower_on_other_classes():
    """Two kinds of rectangles are learned; on a set that has one of them and a new kind, the loss starts lower."""
    rng = np.random.default_rng(0)
    kinds = {"bright": 1.5, "dark": -1.5, "middle": 0.6}

    def batch(names):
        images = 0.1 * rng.normal(size=(8, *tiny.CANVAS, 3)).astype(np.float32)
        boxes = []
        for image in images:
            y, x = rng.integers(0, 20), rng.integers(0, 50)
            for i, name in enumerate(names):
                top = y + 22 * i
                image[top : top + 20, x : x + 30] += kinds[name]
                boxes.append([float(x), float(top), float(x + 30), float(top + 20)])
        return Batch(images, tiny.truth([boxes[2 * i : 2 * i + 2] for i in range(8)]))  # type: ignore[arg-type]

    model = tiny.make(ATSS)
    rates = schema.OptimConfig(name="adamw", learning_rate=3e-3, warmup_steps=5, schedule="constant")
    parameters = steps.survey(model, tiny.CANVAS)
    optimizer = optim.make_optimizer(rates, 60, parameters)
    step = jax.jit(steps.make_train_step(model, optimizer, optim.make_schedule(rates, 60), parameters))
    scratch = jax.jit(lambda: steps.init_variables(model, jax.random.key(0), tiny.CANVAS))()
    state = steps.create_state(parameters, optimizer, scratch)
    for _ in range(60):
        state, _ = step(state, batch(("bright", "dark")))
    other = initial.OtherModel(flat(jax.device_get(state.variables())), ("bright", "dark", "none"))
    start = initial.start(other, parameters, ("dark", "middle", "none"), PIXELS, "run")
    tuned = start.fill(unflatten_dict(flatten_dict(scratch, keep_empty_nodes=True) | flatten_dict(start.given)))
    new = batch(("dark", "middle"))
    losses = {
        name: float(step(steps.create_state(parameters, optimizer, variables), new)[1]["loss"])
        for name, variables in (("tuned", tuned), ("scratch", scratch))
    }
    assert losses["tuned"] < 0.8 * losses["scratch"], losses
