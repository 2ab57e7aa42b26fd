"""A model with a NaN is refused wherever it is opened, and the array is named."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import dyhead_jax
from dyhead_jax import config as configs
from dyhead_jax import convert
from dyhead_jax.evaluation import exported_folder
from dyhead_jax.training import initial
from dyhead_jax.training.parameters import Parameters
from dyhead_jax.weights import finite, layouts, pretrained, provenance, state_dict
from dyhead_jax.weights.finite import NotFiniteError
from tests.converting import SMALL, shapes_of
from tests.inference import tiny_run
from tests.weights import torch_writer


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, jnp.bfloat16])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_first_array_is_named_and_all_are_counted(dtype, value):
    tree = {"params": {"a": {"kernel": np.zeros((2, 3), dtype)}, "b": np.zeros(3, dtype), "n": np.array(3)}}
    finite.check(tree, "W")
    tree["params"]["b"][1] = value
    with pytest.raises(NotFiniteError, match=r"^W: params/b has a NaN or infinite value$"):
        finite.check(tree, "W")
    tree["params"]["a"]["kernel"][1, 2] = value
    with pytest.raises(NotFiniteError, match=r"^W: params/a/kernel has .*, and so have 1 more arrays$"):
        finite.check(tree, "W")


def broken(variables, *path):
    copy = jax.tree.map(np.array, variables)
    leaf = copy
    for name in path:
        leaf = leaf[name]
    leaf.reshape(-1)[-1] = np.nan
    return copy


def test_a_workdir_and_an_exported_folder(tmp_path):
    place = ("params", "dyhead", "block_0", "scale", "gate", "kernel")
    variables = broken(tiny_run.variables(), *place)
    config = tiny_run.make_config(tmp_path)
    convert.write_workdir(tmp_path / "run", config, variables, tiny_run.NAMES, tiny_run.IDS)
    for open_it in (dyhead_jax.load, lambda folder: convert.to_torch(folder, None, "official", tmp_path / "x.npz")):
        with pytest.raises(NotFiniteError, match=rf"checkpoints/0: {'/'.join(place)} has a NaN"):
            open_it(tmp_path / "run")
    arrays = exported_folder.flatten(variables)
    with pytest.raises(NotFiniteError, match=rf"model\.safetensors: {'/'.join(place)} has a NaN"):
        exported_folder.fill(tiny_run.variables(), arrays, tmp_path)


@pytest.fixture(scope="module")
def small():
    return jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), shapes_of(SMALL))


@pytest.mark.long
def test_files_to_convert_and_to_start_from(small, tmp_path):
    variables = broken(small, "params", "backbone", "conv1", "kernel")
    state = state_dict.save(layouts.detector(SMALL, "official"), variables)
    config = configs.Config(model=SMALL, data=configs.DataConfig(canvases=((64, 64),)))
    for backbone_only in (False, True):
        with pytest.raises(NotFiniteError, match=r"its weights: params/(backbone/)?conv1/kernel has a NaN"):
            convert.convert(config, state, backbone_only=backbone_only)
    path = torch_writer.save(tmp_path / "a.pth", {name: np.ascontiguousarray(array) for name, array in state.items()})
    shapes = {name: tree["backbone"] for name, tree in shapes_of(SMALL).items()}
    with pytest.raises(NotFiniteError, match=rf"{path}: params/conv1/kernel has a NaN"):
        pretrained.backbone(str(path), shapes)
    other = initial.OtherModel(initial.read(path, SMALL).arrays)
    parameters = Parameters(shapes_of(SMALL), *(frozenset(),) * 5, {})
    with pytest.raises(NotFiniteError, match=r"config\.model\.init=W: params/backbone/conv1/kernel has a NaN"):
        initial.start(other, parameters, (), provenance.configured(SMALL), "W")
