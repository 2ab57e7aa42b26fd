"""What a run prints before its first step."""

import jax
import numpy as np
import pytest

from dyhead_jax.config import Config, ConfigError, DyHeadConfig, ModelConfig, OptimConfig
from dyhead_jax.training import overview, parallel
from dyhead_jax.training.parameters import Parameters

SHAPES = {"backbone": {"kernel": 3}, "dyhead": {"offset": {"kernel": 4, "bias": 5}}}


def parameters(**sets):
    shapes = {"params": jax.tree.map(lambda size: np.zeros(size, np.float32), SHAPES)}
    names = ("offsets", "positions", "undecayed", "frozen", "norms")
    return Parameters(shapes, **{name: frozenset(sets.get(name, ())) for name in names}, classes={})


def config(dyhead=None, **rates):
    return Config(model=ModelConfig(dyhead=dyhead or DyHeadConfig()), optim=OptimConfig(**rates))


def test_it_says_what_each_multiplier_reaches(capsys):
    found = parameters(offsets={("dyhead", "offset", "kernel"), ("dyhead", "offset", "bias")})
    overview.describe(found, parallel.Single(), config(offset_rate=0.1, backbone_rate=0.5, bias_rate=2.0))
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "optim.backbone_rate 0.5 is for 3 parameters",
        "optim.offset_rate 0.1 is for 9 parameters",
        "optim.bias_rate 2 is for 5 parameters",
    ]


@pytest.mark.parametrize(
    ("sets", "rates", "message"),
    [
        ({}, {"offset_rate": 0.1}, r"config.optim.offset_rate is 0.1, but reaches no parameter; name the layers"),
        (
            {"frozen": {("backbone", "kernel")}},
            {"backbone_rate": 0.5},
            "no parameter of the backbone is trained, or set",
        ),
        ({"norms": {("dyhead", "offset", "bias")}}, {"bias_rate": 2.0}, "no trained parameter is named bias"),
    ],
)
def test_a_multiplier_that_reaches_nothing_is_an_error(sets, rates, message):
    with pytest.raises(ConfigError, match=message):
        overview.describe(parameters(**sets), parallel.Single(), config(**rates))
    overview.describe(parameters(**sets), parallel.Single(), config(**rates), begun=True)


@pytest.mark.parametrize(
    "dyhead", [DyHeadConfig(spatial="none"), DyHeadConfig(num_blocks=0)], ids=["none", "no blocks"]
)
def test_what_the_config_switches_off_is_none(dyhead, capsys):
    overview.describe(parameters(), parallel.Single(), config(dyhead, offset_rate=0.1))
    assert "optim.offset_rate 0.1 is for 0 parameters" in capsys.readouterr().out
