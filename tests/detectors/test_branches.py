"""A pyramid whose levels are `Branches`: each tower of a dense detector reads its own map, Faster R-CNN their mean."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.detectors.roi_head import RoIHead
from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.training import steps
from tests.detectors import tiny
from tests.detectors.kinds import DENSE, KINDS

pytestmark = pytest.mark.long

SHAPES = [(8, 12), (4, 6), (2, 3)]
CLASS_MAPS = {"class", "border_class"}


def pyramid(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return [jax.random.normal(key, (2, *shape, tiny.FEATURES)) for key, shape in zip(keys, SHAPES, strict=True)]


def branches(first, second):
    return [Branches(*maps) for maps in zip(first, second, strict=True)]


@pytest.fixture(scope="module", params=DENSE)
def dense(request):
    """The kind, and a function of a pyramid to predictions."""
    cls, options = KINDS[request.param]
    options = options | ({"centerness_on": "box"} if request.param == "fcos" else {})
    model = tiny.make(cls, blocks=0, **options)
    variables = tiny.init(model)
    return request.param, steps.jit_once(lambda levels: model.apply(variables, levels, method="predict"))


def test_two_equal_maps_are_one(dense):
    _, predict = dense
    maps = pyramid(0)
    jax.tree.map(np.testing.assert_array_equal, predict(branches(maps, maps)), predict(maps))


def test_each_tower_reads_its_own_map(dense):
    """Where class maps depend on boxes too (RepPoints samples at its points, BorderDet along its borders) they follow
    both maps."""
    kind, predict = dense
    first, second = pyramid(0), pyramid(1)
    both, of_first, of_second = predict(branches(first, second)), predict(first), predict(second)
    assert CLASS_MAPS & both.keys()
    for name, levels in both.items():
        classifies = name in CLASS_MAPS
        reads_both = name == "border_class" or (kind, name) == ("reppoints", "class")
        for level, got in enumerate(levels):
            own, other = (of_first, of_second) if classifies else (of_second, of_first)
            assert not np.array_equal(got, other[name][level]), (name, level)
            assert np.array_equal(got, own[name][level]) != reads_both, (name, level)


def test_a_tower_can_predict_the_other_branch():
    """FCOS' centreness comes from the class tower unless told otherwise."""
    cls, options = KINDS["fcos"]
    model = tiny.make(cls, blocks=0, **options)
    variables = tiny.init(model)
    predict = steps.jit_once(lambda levels: model.apply(variables, levels, method="predict"))
    got, wanted = predict(branches(pyramid(0), pyramid(1))), predict(pyramid(0))
    jax.tree.map(np.testing.assert_array_equal, got["centerness"], wanted["centerness"])


def test_faster_rcnn_reads_the_mean():
    cls, options = KINDS["faster_rcnn"]
    model = tiny.make(cls, blocks=0, **options)
    variables = tiny.init(model)
    rois = jnp.asarray([[[4.0, 8.0, 40.0, 50.0], [0.0, 0.0, 90.0, 60.0]]] * 2)

    @steps.jit_once
    def run(levels):
        return (
            model.apply(variables, levels, method="predict"),
            model.apply(variables, levels, rois, method="second_stage"),
        )

    first, second = pyramid(0), pyramid(1)
    mean = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    jax.tree.map(np.testing.assert_array_equal, run(branches(first, second)), run(mean))


class Split(nn.Module):
    """In the place of DyHead: two branches of each level."""

    num_blocks: int = 0
    features: int = tiny.FEATURES

    def __call__(self, levels):
        return branches(levels, levels)


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_detections_take_branches(kind):
    cls, options = KINDS[kind]
    model = tiny.make(cls, blocks=0, **options).clone(dyhead=Split())
    truth = tiny.truth([[[10, 10, 34, 40]], []], sizes=[tiny.CANVAS] * 2)

    def run(key, images):
        found, variables = model.init_with_output(key, images, truth.sizes, method="detect")
        return found, model.apply(variables, images, truth, method="losses")

    found, losses = jax.eval_shape(run, jax.random.key(0), tiny.images(2))
    assert found.boxes.shape == (2, model.max_detections, 4)
    assert all(term.shape == () for term in losses.values())


class Halves(nn.Module):
    """A task attention of two branches."""

    def __call__(self, x):
        return Branches(x, 3 * x)


def test_the_second_stage_reads_the_mean():
    x = jnp.ones((2, 3, 3, 4))
    head = RoIHead(num_classes=2, layers=1, task=Halves)
    variables = steps.jit_once(head.init)(jax.random.key(0), x)
    found = head.apply(variables, x)
    jax.tree.map(np.testing.assert_array_equal, found, head.clone(layers=0).apply(variables, 2 * x))
