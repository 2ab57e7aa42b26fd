"""The base class: parts that freeze parameters and parts that do not, and steps that a subclass left out."""

import jax
import pytest
from flax import linen as nn

from dyhead_jax.detectors.detector import Detector
from dyhead_jax.necks.fpn import FPN
from dyhead_jax.training import optim
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
