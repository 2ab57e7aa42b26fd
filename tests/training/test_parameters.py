"""What modules declare of their parameters, in models of this package and in one of a test's own."""

import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from dyhead_jax import config as schema
from dyhead_jax import detectors
from dyhead_jax.training import steps
from dyhead_jax.training.parameters import ParameterError, trace_parameters

RESNEXT = schema.ResNetConfig(width=8, groups=4, group_width=4, deform="v2", deform_stages=(4, 5), norm="frozen")
SWIN = schema.SwinConfig(features=8, depths=(1, 1, 1, 1), heads=(1, 1, 1, 1), window=4, absolute_position=True)
MODELS = {
    "atss": schema.ModelConfig(backbone=RESNEXT, head=schema.ATSSConfig(towers=1)),
    "fcos": schema.ModelConfig(backbone=SWIN, head=schema.FCOSConfig(towers=1)),
    "faster_rcnn": schema.ModelConfig(backbone=schema.EfficientNetLiteConfig(), head=schema.FasterRCNNConfig()),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("scan", [pytest.param(False, marks=pytest.mark.long), True])
def test_declarations_agree_with_the_names_in_this_package(name, scan):
    model = MODELS[name]
    model.neck.features = model.dyhead.features = 32
    model.dyhead.num_blocks, model.dyhead.scan, model.dyhead.remat = 2, scan, scan
    parameters = steps.survey(detectors.build(model), (64, 64))
    paths = set(flatten_dict(parameters.shapes["params"]))

    def named(pattern: str, leaf: bool = False) -> set[Any]:
        return {p for p in paths if any(re.search(pattern, part) for part in (p[-1:] if leaf else p[:-1]))}

    assert parameters.offsets == named(r"(^|_)offset$")
    assert parameters.norms == named(r"norm|(^|_)bn\d*($|_)")
    assert parameters.positions == named("absolute_pos_embed|relative_position_bias_table", leaf=True)
    assert parameters.frozen == {p for p in paths if detectors.build(model).is_frozen(p)}
    assert parameters.undecayed == set()
    assert parameters.offsets  # DyHead's at least
    assert bool(parameters.positions) == (name == "fcos")


class Centre(nn.Module):
    """A norm of a fork's own."""

    is_norm: ClassVar = True

    @nn.compact
    def __call__(self, x):
        return x - self.param("shift", nn.initializers.zeros, (1, 1))


class Own(nn.Module):
    wrong: bool = False
    undecayed_parameters: ClassVar = ("free",)
    frozen_parameters: ClassVar = ("fixed", "table")
    position_parameters: ClassVar = ("table",)

    @property
    def offset_parameters(self):
        return ("sampling", "absent") if self.wrong else ("sampling",)

    @nn.compact
    def __call__(self, x):
        x = Centre(name="centre")(x)
        x = nn.Dense(2, name="sampling")(nn.Dense(2, name="fixed")(nn.Dense(2, name="free")(x)))
        return x + self.param("table", nn.initializers.zeros, (1, 2))


def survey(model):
    return trace_parameters(model, lambda: model.init(jax.random.key(0), jnp.zeros((1, 2))))


def test_every_kind_of_declaration():
    parameters = survey(Own())
    both = lambda name: {(name, "kernel"), (name, "bias")}  # noqa: E731
    assert parameters.offsets == both("sampling")
    assert parameters.undecayed == both("free")
    assert parameters.positions == {("table",)}
    assert parameters.frozen == both("fixed") | {("table",)}
    assert parameters.norms == {("centre", "shift")}


def test_a_declaration_without_a_parameter_is_an_error():
    with pytest.raises(ParameterError, match=r"Own declares offset_parameters 'absent', but has no absent"):
        survey(Own(wrong=True))
