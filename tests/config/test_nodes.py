"""Nodes that are made from what a class, a function or a partial declares."""

import dataclasses
from functools import partial
from typing import Any

import pytest
from flax import linen as nn

from dyhead_jax import config as configs
from dyhead_jax.choices import Choice
from dyhead_jax.config import import_path, nodes, validate


class Word(Choice):
    LEFT = "left"
    RIGHT = "right"


class Own(nn.Module):
    """A module with fields of all kinds."""

    features: int
    needed: float
    width: int = 4
    sizes: tuple[int, ...] = (1, 2)
    limit: float | None = None
    word: Word = Word.LEFT
    kernel_init: Any = nn.initializers.zeros  # no config can hold it
    dtype: Any = None


Wide = partial(Own, width=9, kernel_init=nn.initializers.ones)


def function(features: int, *, width: int = 3) -> tuple[int, int]:
    return features, width


HERE = __name__
GIVEN = ("features", "dtype")


def test_a_node_has_the_plain_fields_that_are_not_handed_down():
    node = nodes.make_node(f"{HERE}:Own", GIVEN)
    assert [f.name for f in dataclasses.fields(node)] == ["module", "needed", "width", "sizes", "limit", "word"]
    assert (node.needed, node.width, node.word) == (None, 4, "left")
    assert nodes.make_node(f"{HERE}:Own", GIVEN) == node == f"{HERE}:Own"
    with pytest.raises(configs.ConfigError, match="needs a value for 'needed'"):
        nodes.build(node, features=1)
    node.needed, node.limit = 0.5, 2.0
    built = nodes.build(node, features=8, axis_name="not taken")
    assert (built.features, built.needed, built.width, built.limit) == (8, 0.5, 4, 2.0)


def test_a_partial_gives_defaults_that_an_option_replaces():
    node = nodes.make_node({"module": f"{HERE}:Wide", "needed": 1.0}, GIVEN)
    assert node.width == 9
    assert nodes.build(node, features=8).width == 9
    assert nodes.build(node, features=8).kernel_init is nn.initializers.ones
    node.width = 5
    assert nodes.build(node, features=8).width == 5
    assert nodes.target_of(node).keywords["width"] == 5


def test_a_function_is_taken_too():
    node = nodes.make_node({"module": f"{HERE}:function", "width": 7}, GIVEN)
    assert nodes.build(node, features=1, dtype=None) == (1, 7)
    assert nodes.target_of(nodes.make_node(f"{HERE}:function", GIVEN)) is function


def test_what_does_not_fit_is_named():
    for value, message in {
        f"{HERE}:Absent": "has no 'Absent'",
        "no_such_module:X": "no module named 'no_such_module'",
        "plain": "not of the form",
        "dyhead_jax:__doc__": "is not a class or function with named parameters",
        "builtins:dict": "is not a class or function with named parameters",
    }.items():
        with pytest.raises(configs.ConfigError, match=message):
            nodes.make_node(value)
    for option, message in {
        "widht": "has no option 'widht'; it has needed, width",
        "features": "is set by the parent",
    }.items():
        with pytest.raises(configs.ConfigError, match=message):
            nodes.make_node({"module": f"{HERE}:Own", option: 1}, GIVEN)


def test_off_is_none():
    assert nodes.target_of(nodes.make_node("none", GIVEN)) is None
    assert configs.DyHeadConfig(task="none").task == "none"


def test_words_and_fields_of_any_class_are_validated():
    config = configs.Config()
    config.model.dyhead.task = f"{HERE}:Own"
    config.model.dyhead.task.needed = 1.0
    validate(config)
    config.model.dyhead.task.word = "middle"
    with pytest.raises(
        configs.ConfigError, match=r"config\.model\.dyhead\.task\.word is 'middle'; it may be 'left', 'right'"
    ):
        validate(config)


def test_a_subclass_of_a_config_has_no_fields_that_its_module_does_not_take():
    """Before, they changed nothing, without a word."""
    config = configs.Config()
    config.model.dyhead = MoreDyHead()
    with pytest.raises(configs.ConfigError, match=r"config\.model\.dyhead: .*DyHead does not take 'num_points'"):
        validate(config)


@dataclasses.dataclass(slots=True, kw_only=True)
class MoreDyHead(configs.DyHeadConfig):
    num_points: int = 4


def test_own_classes_are_found_by_what_they_configure():
    model = configs.ModelConfig(backbone="dyhead_jax.backbones.swin:Swin", head="dyhead_jax.detectors.fcos:FCOS")
    assert (model.backbone, model.head) == (configs.SwinConfig(), configs.FCOSConfig())


def test_parameters_of_a_linen_module_are_its_fields():
    assert set(import_path.parameters(Own)) == {f.name for f in dataclasses.fields(Own)} - {"name", "parent"}
    assert import_path.parameters(Wide)["width"].default == 9
    assert import_path.name_of(Wide) == "Own"
