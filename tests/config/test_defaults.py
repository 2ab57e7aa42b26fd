"""A config class and the class that it configures have the same options with the same defaults."""

import inspect

import pytest

from dyhead_jax import config as configs
from dyhead_jax.config import import_path, nodes

CLASSES = [
    cls
    for cls in vars(configs).values()
    if isinstance(cls, type) and "module" in getattr(cls, "__dataclass_fields__", {})
]


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__name__)
def test_defaults_are_the_same_on_both_sides(cls):
    node = cls()
    takes = import_path.parameters(import_path.load(node.module))
    for name, value in nodes.options_of(node).items():
        value = nodes.target_of(value) if nodes.is_node(value) else value
        default = takes[name].default
        assert default is inspect.Parameter.empty or value == default, name


def test_every_node_of_this_package_is_compared():
    assert {"ATSSConfig", "DyHeadConfig", "FPNConfig", "ResNetConfig", "SwinConfig"} <= {c.__name__ for c in CLASSES}
    assert len(CLASSES) == 15
