"""Backbone weights from files of any project, by the names alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax import config as configs
from dyhead_jax import train
from dyhead_jax.backbones.resnet import ResNet
from dyhead_jax.backbones.swin import Swin
from dyhead_jax.training import steps
from dyhead_jax.weights import files, layouts, names, pretrained, state_dict
from tests.backbones.variables import random_variables

IMAGE = jnp.zeros((1, 32, 32, 3))
MODELS = {
    "basic": ResNet(depth=18, width=4),
    "bottleneck": ResNet(depth=50, width=4, groups=2, group_width=4),
    "swin": Swin(8, heads=(1, 2, 4, 8)),
}
CASES = {
    "resnet": "basic",
    "resnet-detectron2": "bottleneck",
    "resnet-caffe2": "bottleneck",
    "swin-official": "swin",
    "swin-mmdet": "swin",
    "swin-torchvision": "swin",
    "swin-timm": "swin",
}
SHORT = ("resnet",)  # with every prefix in `make test` too
CLASSIFIERS = {
    "resnet": ("fc.weight", "bn1.num_batches_tracked", "layer1.0.bn1.num_batches_tracked"),
    "resnet-detectron2": ("stem.fc.weight",),
    "resnet-caffe2": ("fc1000_w", "fc1000_b", "conv1_b"),
    "swin-official": ("head.weight", "norm.bias", "layers.0.blocks.1.attn_mask"),
    "swin-mmdet": ("stages.0.blocks.0.attn.w_msa.relative_position_index",),
    "swin-torchvision": ("head.weight", "norm.weight", "features.1.0.attn.relative_position_index"),
    "swin-timm": ("head.fc.weight", "norm.weight", "layers.0.blocks.0.attn.relative_position_index"),
}


def file_of(layout: str, variables: dict) -> dict[str, np.ndarray]:
    """The names and arrays that a file of this layout has for these variables."""
    if layout == "resnet-caffe2":
        stats = {"mean": 0.0, "var": 1 - 1e-5}
        fold = lambda keys, leaf: np.full(leaf.shape, stats[keys[-1].key], np.float32)  # noqa: E731
        variables["batch_stats"] = jax.tree_util.tree_map_with_path(fold, variables["batch_stats"])
    elif CASES[layout] == "swin":
        bare = {k: v for k, v in variables["params"].items() if k not in ("norm0", "norm1", "norm2", "norm3")}
        variables = {"params": bare}
    state = names.save(layouts.BACKBONES[layout][1], variables)
    if layout == "swin-timm":
        later = {f"layers.{i}.downsample": f"layers.{i + 1}.downsample" for i in range(3)}
        state = {f"{later[k[:19]]}{k[19:]}" if k[:19] in later else k: v for k, v in state.items()}
    return state | {name: np.zeros(3, np.float32) for name in CLASSIFIERS[layout]}


@pytest.mark.parametrize(
    ("layout", "prefix"),
    [
        pytest.param(layout, prefix, marks=pytest.mark.long if prefix and layout not in SHORT else [])
        for layout in CASES
        for prefix in ("", "backbone.", "backbone.bottom_up.")
    ],
)
def test_a_backbone_comes_back(monkeypatch, layout, prefix):
    variables = random_variables(MODELS[CASES[layout]], IMAGE, False)
    state = {prefix + name: array for name, array in file_of(layout, variables).items()}
    found = layouts.find_backbone(state)
    assert (found.layout, found.prefix) == (layout, prefix)
    if prefix:
        state["neck.lateral_convs.0.conv.weight"] = np.zeros(1)
    monkeypatch.setattr(files, "read", lambda name: files.Checkpoint(state, {}))
    got = pretrained.backbone("weights.pth", variables)
    jax.tree.map(np.testing.assert_array_equal, got, variables)


def test_names_of_caffe2():
    """Detectron's R-50.pkl, by the renaming that detectron2 does when it loads one."""
    variables = random_variables(MODELS["bottleneck"], IMAGE, False)
    found = file_of("resnet-caffe2", variables)
    for name in (
        "conv1_w", "res_conv1_bn_s", "res_conv1_bn_b", "res2_0_branch1_w", "res2_0_branch1_bn_b", "res4_5_branch2b_w",
        "res5_2_branch2c_bn_s",
    ):  # fmt: skip
        assert name in found
    block = variables["params"]["layer2_0"]
    np.testing.assert_array_equal(found["res3_0_branch1_w"][:, :, 0, 0].T, block["downsample_conv"]["kernel"][0, 0])
    np.testing.assert_array_equal(found["res3_0_branch2c_bn_s"], block["bn3"]["scale"])


def test_merging_of_timm_belongs_to_the_later_stage():
    variables = random_variables(MODELS["swin"], IMAGE, False)
    state = file_of("swin-timm", variables)
    assert "layers.3.downsample.reduction.weight" in state
    assert "layers.0.downsample.reduction.weight" not in state
    found = state_dict.match(names.swin_timm, state, variables)
    assert found.names["params/downsample0/norm/scale"] == "layers.1.downsample.norm.weight"


@pytest.mark.parametrize("layout", CASES)
def test_a_missing_parameter_is_named(monkeypatch, layout):
    variables = random_variables(MODELS[CASES[layout]], IMAGE, False)
    state = file_of(layout, variables)
    table = layouts.BACKBONES[layout][1]
    gone = next(reversed([k for k in state if k not in layouts.BACKBONES[layout][0] and k not in CLASSIFIERS[layout]]))
    path = next(p for p, name in state_dict.match(table, state, variables).names.items() if name == gone)
    del state[gone]
    monkeypatch.setattr(files, "read", lambda name: files.Checkpoint(state, {}))
    with pytest.raises(pretrained.PretrainedError, match=f"^weights.pth: .*nothing for {path}"):
        pretrained.backbone("weights.pth", variables)


def test_other_weights_are_named(monkeypatch):
    monkeypatch.setattr(files, "read", lambda name: files.Checkpoint({"blocks.0.attn.qkv.weight": np.zeros(1)}, {}))
    with pytest.raises(
        pretrained.PretrainedError, match=r"^vit\.pth: names like 'blocks\.0\.attn\.qkv\.weight' fit no"
    ):
        pretrained.backbone("vit.pth", {})


def test_lite0_in_another_backbone_is_named():
    with pytest.raises(pretrained.PretrainedError, match=r"does not fit config\.model\.backbone"):
        pretrained.backbone("efficientnet-lite0", random_variables(MODELS["basic"], IMAGE, False))


def test_norms_that_no_file_has_are_left_to_the_model(monkeypatch):
    variables = random_variables(MODELS["swin"], IMAGE, False)
    monkeypatch.setattr(files, "read", lambda name: files.Checkpoint(file_of("swin-timm", variables), {}))
    got = pretrained.backbone("weights.pth", jax.eval_shape(lambda: variables))
    assert set(variables["params"]) - set(got["params"]) == {"norm0", "norm1", "norm2", "norm3"}
    jax.tree.map(np.testing.assert_array_equal, got["params"], {k: variables["params"][k] for k in got["params"]})


class Model(nn.Module):
    def setup(self):
        self.backbone, self.head = nn.Dense(2), nn.Dense(2)

    def detect(self, images, sizes):
        return self.head(self.backbone(images.astype(jnp.float32)))


def test_training_starts_from_them(monkeypatch):
    """With the rest as random as it would be without them."""
    config = configs.Config(data=configs.DataConfig(canvases=((4, 4),)))
    parameters = steps.survey(Model(), (4, 4))
    plain = train.first_variables(config, Model(), parameters, ())
    sevens = jax.tree.map(lambda x: np.full_like(x, 7.0), plain["params"]["backbone"])
    monkeypatch.setattr(pretrained, "backbone", lambda name, shapes, own: {"params": sevens})
    config.model.pretrained = "weights.pth"
    got = train.first_variables(config, Model(), parameters, ())
    jax.tree.map(np.testing.assert_array_equal, got["params"], plain["params"] | {"backbone": sevens})


def test_first_weights_of_all_seeds_come_from_one_program(monkeypatch):
    programs, weights = [], []
    plain = steps.jit_once

    def recorded(function):
        def call(*arguments, **named):
            programs.append(jax.jit(function).lower(*arguments, **named).as_text())
            return plain(function)(*arguments, **named)

        return call

    monkeypatch.setattr(steps, "jit_once", recorded)
    config = configs.Config(data=configs.DataConfig(canvases=((4, 4),)))
    parameters = steps.survey(Model(), (4, 4))
    for seed in (0, 2**32 - 1):
        config.seed = seed
        weights.append(train.first_variables(config, Model(), parameters, ()))
        wanted = jax.jit(lambda seed=seed: steps.init_variables(Model(), jax.random.key(seed), (4, 4)))()
        jax.tree.map(np.testing.assert_array_equal, weights[-1], wanted)
    assert len(programs) == 2
    assert programs[0] == programs[1]
    assert (weights[0]["params"]["head"]["kernel"] != weights[1]["params"]["head"]["kernel"]).any()
