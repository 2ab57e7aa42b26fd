"""Name tables: every parameter of both sides is accounted for, and `save` undoes `load`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.resnet import ResNet
from dyhead_jax.backbones.swin import Swin
from dyhead_jax.necks.fpn import FPN
from dyhead_jax.weights import names
from dyhead_jax.weights.state_dict import KINDS, NamesError, Rule, Table, load, save
from tests.backbones.variables import random_variables

IMAGE = jnp.zeros((1, 32, 32, 3))
MAPS = [jnp.zeros((1, 8 >> i, 8 >> i, 4 << i)) for i in range(4)]
DEFORMABLE = ResNet(width=4, groups=2, group_width=4, deform="v2", deform_stages=(4, 5))
MODELS = {
    "resnet18": (ResNet(depth=18, width=4), (IMAGE, False), names.resnet),
    "resnet50 with DCN": (DEFORMABLE, (IMAGE, False), names.resnet),
    "resnet50 with DCN, detectron2": (DEFORMABLE, (IMAGE, False), names.resnet_detectron2),
    "swin, official": (Swin(8, heads=(1, 2, 4, 8), absolute_position=True), (IMAGE, False), names.swin_official),
    "swin, mmdetection": (Swin(8, heads=(1, 2, 4, 8), absolute_position=True), (IMAGE, False), names.swin_mmdet),
    "fpn, mmdetection": (FPN(8), (MAPS,), names.fpn_mmdet(3)),
    "fpn, detectron2": (FPN(8, start=1), (MAPS,), names.fpn_detectron2(1)),
}


@pytest.mark.parametrize("case", MODELS)
def test_save_and_load_are_inverses(case):
    model, arguments, table = MODELS[case]
    variables = random_variables(model, *arguments)
    state_dict = save(table, variables)
    assert len(state_dict) == len(jax.tree.leaves(variables))
    back = load(table, state_dict, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


def test_names_are_those_of_the_files():
    found = save(names.resnet_detectron2, random_variables(DEFORMABLE, IMAGE, False))
    for name, shape in {
        "stem.conv1.norm.running_var": (4,),
        "res2.0.shortcut.weight": (16, 4, 1, 1),
        "res5.2.conv2_offset.weight": (27, 64, 3, 3),
        "res4.5.conv3.norm.bias": (64,),
    }.items():
        assert found[name].shape == shape
    found = save(names.resnet, random_variables(DEFORMABLE, IMAGE, False))
    assert found["layer3.0.downsample.1.running_mean"].shape == (64,)
    assert found["layer4.0.conv2.conv_offset.bias"].shape == (27,)
    found = save(names.fpn_detectron2(1), random_variables(FPN(8), MAPS))
    assert {"fpn_lateral3.weight", "fpn_output5.bias", "top_block.p7.weight"} <= set(found)
    found = save(names.fpn_mmdet(3), random_variables(FPN(8), MAPS))
    assert found["fpn_convs.4.conv.weight"].shape == (8, 8, 3, 3)


def test_under_and_sum():
    table = names.resnet.under("backbone.", "backbone") + names.fpn_mmdet(3).under("neck.0.", "neck")
    resnet = random_variables(ResNet(depth=18, width=4), IMAGE, False)
    fpn = random_variables(FPN(8), MAPS)
    whole = {
        "params": {"backbone": resnet["params"], "neck": fpn["params"]},
        "batch_stats": {"backbone": resnet["batch_stats"]},
    }
    state_dict = save(table, whole)
    assert all(name.startswith(("backbone.", "neck.0.")) for name in state_dict)
    state_dict |= {"backbone.fc.weight": np.zeros((1000, 32)), "backbone.bn1.num_batches_tracked": np.array(0)}
    jax.tree.map(np.testing.assert_array_equal, load(table, state_dict, whole), whole)


@pytest.fixture
def pair():
    variables = random_variables(FPN(8), MAPS)
    return variables, save(names.fpn_mmdet(3), variables)


def test_a_name_too_many(pair):
    variables, state_dict = pair
    with pytest.raises(NamesError, match=r"no place for bbox_head\.cls\.weight of the checkpoint"):
        load(names.fpn_mmdet(3), state_dict | {"bbox_head.cls.weight": np.zeros(3)}, variables)
    with pytest.raises(NamesError, match=r"no place for lateral_convs\.3\.conv\.bias"):
        load(names.fpn_mmdet(3), state_dict | {"lateral_convs.3.conv.bias": np.zeros(8)}, variables)


def test_a_name_too_few(pair):
    variables, state_dict = pair
    del state_dict["fpn_convs.4.conv.bias"]
    with pytest.raises(NamesError, match="nothing for params/extra_1/bias of the model"):
        load(names.fpn_mmdet(3), state_dict, variables)


def test_another_shape(pair):
    variables, state_dict = pair
    weight = state_dict["fpn_convs.0.conv.weight"]
    with pytest.raises(NamesError, match=r"fpn_convs\.0\.conv\.weight of the checkpoint gives shape \(3, 3, 8, 7\)"):
        load(names.fpn_mmdet(3), state_dict | {"fpn_convs.0.conv.weight": weight[:7]}, variables)
    with pytest.raises(NamesError, match=r"fpn_convs\.0\.conv\.weight of the checkpoint has shape \(8,\)"):
        load(names.fpn_mmdet(3), state_dict | {"fpn_convs.0.conv.weight": np.zeros(8)}, variables)


def test_two_names_for_one_parameter():
    table = Table((Rule("a", "x", "same"), Rule("b", "x", "same")))
    with pytest.raises(NamesError, match="a and b of the checkpoint both fill params/x"):
        load(table, {"a": np.zeros(1), "b": np.zeros(1)})


def test_pieces_stack_in_order_and_must_be_complete():
    table = Table((Rule("scales.{}.scale", "scales[{}]", "scalar"),))
    state_dict = {f"scales.{i}.scale": np.array([float(i)]) for i in (2, 0, 1)}
    np.testing.assert_array_equal(load(table, state_dict)["params"]["scales"], [0, 1, 2])
    with pytest.raises(NamesError, match=r"do not stack: indices \[0, 2\]"):
        load(table, {k: v for k, v in state_dict.items() if "1" not in k})
    assert save(table, {"params": {"scales": np.arange(3.0)}}).keys() == state_dict.keys()


def test_optional_parameters_keep_their_value_and_need_one():
    model = Swin(8, (1,), (1,))
    variables = random_variables(model, IMAGE, False)
    state_dict = {k: v for k, v in save(names.swin_mmdet, variables).items() if not k.startswith("norm0")}
    jax.tree.map(np.testing.assert_array_equal, load(names.swin_mmdet, state_dict, variables), variables)
    shapes = jax.eval_shape(lambda: variables)
    with pytest.raises(NamesError, match="nothing for params/norm0/bias, params/norm0/scale"):
        load(names.swin_mmdet, state_dict, shapes)


def test_patch_merging_orders():
    """Channels 0 to 7 of a 2x2 cell with 2 channels, named by (row, column, channel)."""
    official = [(row, column, c) for column in (0, 1) for row in (0, 1) for c in (0, 1)]
    unfolded = [(row, column, c) for c in (0, 1) for row in (0, 1) for column in (0, 1)]
    values = np.array([unfolded.index(key) for key in official])
    np.testing.assert_array_equal(KINDS["unfold_vector"](np.arange(8)), values)
