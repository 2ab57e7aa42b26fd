"""How the detectors' own layers start: every parameter has a scheme, and its statistics are those of the scheme.

Schemes of mmdetection's heads, of which the official ATSS head has the same; backbones, neck and DyHead (both lineages)
are held by the tests beside theirs.
"""

import math
import re

import jax
import numpy as np
import pytest

from dyhead_jax import config, detectors
from dyhead_jax.training import steps

PRIOR = -math.log(99)  # the score that sigmoid turns into 0.01


def normal(std):
    def check(x):
        tolerance = 5 / math.sqrt(2 * x.size)  # five standard deviations of a standard deviation
        assert abs(x.std() / std - 1) < tolerance
        assert abs(x.mean()) < 5 * std / math.sqrt(x.size)
        if x.size > 2000:
            assert np.abs(x).max() > 2.8 * std  # not uniform, not cut off

    return check


def uniform(gain, *, both_fans=False):
    """U(+-sqrt(3 * gain / fan)); the fan is the input's, or the mean of both."""

    def check(x):
        *rest, c_in, c_out = x.shape
        area = math.prod(rest)
        bound = math.sqrt(3 * gain / (area * (c_in + c_out) / 2 if both_fans else area * c_in))
        assert 0.98 * bound < np.abs(x).max() <= bound * (1 + 1e-6)
        assert abs(x.std() / (bound / math.sqrt(3)) - 1) < 5 / math.sqrt(2 * x.size)

    return check


def constant(value):
    return lambda x: np.testing.assert_allclose(x, np.full_like(x, value), rtol=1e-6)


NORMS = ((r"norm_\d+/scale", constant(1)), (r"norm_\d+/bias", constant(0)))
DENSE = (
    *NORMS,
    (r".*class_predictor/bias", constant(PRIOR)),
    (r"scales", constant(1)),
    (r".*/bias", constant(0)),
    (r".*/kernel", normal(0.01)),
)
CASES = {
    "atss": (config.ATSSConfig(towers=1), DENSE),
    "retinanet": (config.RetinaNetConfig(towers=1), DENSE),
    "retinanet_norm": (config.RetinaNetConfig(towers=1, norm_groups=16), DENSE),
    "fcos": (config.FCOSConfig(towers=1, level_limits=(64.0,)), DENSE),
    "reppoints": (
        config.RepPointsConfig(towers=1),
        ((r".*deform_kernel", uniform(2)), (r"moment_transfer", constant(0)), *DENSE),
    ),
    "reppoints_grid": (
        config.RepPointsConfig(towers=1, grid_start=2.0),
        (
            (r".*deform_kernel", uniform(2)),
            (r"moment_transfer", constant(0)),
            (r"first_predictor/bias", constant([-2, -2, -2, 0, -2, 2, 0, -2, 0, 0, 0, 2, 2, -2, 2, 0, 2, 2])),
            *DENSE,
        ),
    ),
    "faster_rcnn": (
        config.FasterRCNNConfig(rpn_features=32, roi_levels=2, roi_size=3, fc_features=32, proposals=(8, 8)),
        (
            (r"roi_head/fc_\d/kernel", uniform(1, both_fans=True)),
            (r"roi_head/box_predictor/kernel", normal(0.001)),
            (r".*/bias", constant(0)),
            (r".*/kernel", normal(0.01)),
        ),
    ),
    "borderdet": (
        config.BorderDetConfig(towers=1, level_limits=(64.0,), border_class_features=32, border_box_features=32),
        DENSE,
    ),
}


def head_parameters(head):
    """A function that initialises a small detector and returns the parameters of its head."""
    model = detectors.build(
        config.ModelConfig(
            num_classes=5,
            backbone=config.ResNetConfig(depth=18, width=4),
            neck=config.FPNConfig(features=32, start=2, levels=2),
            dyhead=config.DyHeadConfig(num_blocks=0, features=32),
            head=head,
        )
    )

    def own() -> dict:
        params = steps.init_variables(model, jax.random.key(0), (64, 64))["params"]
        return {name: tree for name, tree in params.items() if name not in ("backbone", "neck", "dyhead")}

    return own


@pytest.mark.parametrize(("groups", "has"), [(0, False), (16, True)])
def test_towers_of_retinanet_have_norms_on_request(groups, has):
    parameters = jax.eval_shape(head_parameters(config.RetinaNetConfig(towers=2, norm_groups=groups)))
    for tower in ("class_tower", "box_tower"):
        assert ({"norm_0", "norm_1"} <= set(parameters[tower])) == has


@pytest.mark.parametrize("case", ["atss", *(pytest.param(c, marks=pytest.mark.long) for c in CASES if c != "atss")])
def test_every_layer_of_a_head(case):
    head, schemes = CASES[case]
    found = jax.tree_util.tree_leaves_with_path(jax.device_get(steps.jit_once(head_parameters(head))()))
    assert found
    for keys, leaf in found:
        path = jax.tree_util.keystr(keys, simple=True, separator="/")
        check = next((scheme for pattern, scheme in schemes if re.fullmatch(rf"(.*/)?{pattern}", path)), None)
        assert check is not None, f"{path} has no scheme"
        try:
            check(np.asarray(leaf, np.float64))
        except AssertionError as error:
            raise AssertionError(f"{path} {leaf.shape}: {error}") from error
