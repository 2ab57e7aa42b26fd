"""Backbone weights from PyTorch files, by the names of three projects."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax import names, pretrained, torch_file
from dyhead_jax.backbones.resnet import ResNet


@pytest.fixture(scope="module")
def variables():
    model = ResNet(depth=18, width=4, norm="eval", frozen_stages=-1)
    found = jax.jit(lambda k: model.init(k, jnp.zeros((1, 32, 32, 3)), False))(jax.random.key(0))
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), dict(found))


@pytest.mark.parametrize(
    ("table", "prefix"),
    [(names.resnet, ""), (names.resnet, "backbone."), (names.resnet_detectron2, "")],
    ids=["torchvision", "mmdetection", "detectron2"],
)
def test_a_resnet_comes_back(monkeypatch, variables, table, prefix):
    state = {prefix + name: array for name, array in names.save(table, variables).items()}
    if prefix:
        state["neck.lateral_convs.0.conv.weight"] = np.zeros(1)
    monkeypatch.setattr(torch_file, "read", lambda name: state)
    got = pretrained.backbone("weights.pth", variables)
    jax.tree.map(np.testing.assert_array_equal, got, variables)


def test_other_weights_are_named(monkeypatch, variables):
    monkeypatch.setattr(torch_file, "read", lambda name: {"res2_0_branch2a_w": np.zeros(1)})
    with pytest.raises(pretrained.PretrainedError, match=r"R-50\.pkl: names like 'res2_0_branch2a_w'"):
        pretrained.backbone("R-50.pkl", variables)


def test_lite0_in_another_backbone_is_named(variables):
    with pytest.raises(pretrained.PretrainedError, match=r"does not fit config\.model\.backbone"):
        pretrained.backbone("efficientnet-lite0", variables)


def test_a_missing_parameter_is_named(monkeypatch, variables):
    state = names.save(names.resnet, variables)
    del state["layer1.0.conv1.weight"]
    monkeypatch.setattr(torch_file, "read", lambda name: state)
    with pytest.raises(names.NamesError, match="layer1_0/conv1/kernel"):
        pretrained.backbone("weights.pth", variables)
