"""The base class: parts that freeze parameters and parts that do not, and steps that a subclass left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.boxes.postprocess import mark_broken
from dyhead_jax.detectors.detector import Detector
from dyhead_jax.necks.fpn import FPN
from dyhead_jax.training import optim
from dyhead_jax.types import Detections
from tests.detectors import tiny


class Plain(nn.Module):
    """A backbone without `is_frozen`."""

    @nn.compact
    def __call__(self, x, train):
        return [nn.Conv(4, (3, 3), name="stem")(x)]


class FrozenNeck(FPN):
    def is_frozen(self, path):
        return path[0] == "lateral_0"


def test_parts_are_asked_what_they_freeze():
    model = tiny.make(Detector).clone(backbone=Plain(), neck=FrozenNeck(features=4, start=1, levels=3))
    params = {
        "backbone": {"stem": {"kernel": 0}},
        "neck": {"lateral_0": {"kernel": 1}, "lateral_1": {"kernel": 2}},
        "class_predictor": {"kernel": 3},
    }
    trained, frozen = optim.partition(params, model.is_frozen)
    assert frozen == {"neck": {"lateral_0": {"kernel": 1}}}
    assert jax.tree.leaves(trained) == [0, 3, 2]


def test_a_step_that_is_missing_is_named():
    truth = tiny.truth([[[10, 10, 34, 40]]])
    model = tiny.make(Detector)
    with pytest.raises(TypeError, match="Detector does not define targets"):
        model.apply({}, {}, truth, method="losses_from_maps")
    with pytest.raises(TypeError, match="Detector does not define detect_from_maps"):
        model.apply({}, {}, truth.sizes, method="detect_from_maps")


class Found(Detector):
    """Two boxes an image, and none in the second; what it predicts is given."""

    predictions: tuple = ()

    def features(self, images, sizes=None, train=False):
        return {"neck": [jnp.full((3, 2), jnp.nan)], "class": list(self.predictions)}

    def detect_from_maps(self, maps, sizes):
        some = jnp.array([True, False, True])[:, None]
        labels = jnp.where(some, jnp.array([[0, 1]]), -1)
        return Detections(boxes=jnp.zeros((3, 2, 4)), scores=jnp.where(some, 0.5, jnp.zeros((3, 2))), labels=labels)


def test_an_image_with_a_nan_among_its_predictions_has_nan_scores():
    first, second = np.zeros((3, 4, 4, 2)), np.zeros((3, 2, 2, 2))
    model = tiny.make(Found).clone(predictions=(first, second))
    whole = model.apply({}, tiny.images(3), None, method="detect")
    np.testing.assert_array_equal(whole.scores, [[0.5, 0.5], [0, 0], [0.5, 0.5]])
    second[1, 1, 0, 1] = np.nan
    found = model.clone(predictions=(first, second)).apply({}, tiny.images(3), None, method="detect")
    np.testing.assert_array_equal(np.isnan(found.scores).all(1), [False, True, False])
    np.testing.assert_array_equal(found.labels, [[0, 1], [0, 0], [0, 1]])
    np.testing.assert_array_equal(found.scores[::2], whole.scores[::2])
    infinite = mark_broken(whole, [jnp.full((3, 2), jnp.inf)])  # a distance may overflow where nothing is
    np.testing.assert_array_equal(infinite.scores, whole.scores)
