"""Every file in configs/: valid, its docstring says how to run it, its model has the shapes it should."""

import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from dyhead_jax import config as schema
from dyhead_jax.detectors import build

FILES = sorted((Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def load(path: Path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_config(path):
    module = load(path)
    assert f"--config=configs/{path.name}" in module.__doc__
    config = module.get_config()
    schema.validate(config)
    assert schema.from_json(schema.to_json(config)) == config
    model = build(config.model)
    images, sizes = jax.ShapeDtypeStruct((1, 128, 128, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)

    def init(key, images, sizes):
        variables = model.init(key, images, sizes, method="detect")
        return variables, model.apply(variables, images, sizes, method="detect")

    variables, found = jax.eval_shape(init, jax.random.key(0), images, sizes)
    assert found.boxes.shape == (1, config.model.head.max_detections, 4)
    blocks = {name for name in variables["params"].get("dyhead", {}) if name.startswith("block")}
    assert len(blocks) == config.model.dyhead.num_blocks


def test_whole_atss_r50_dyhead_has_the_reference_parameters():
    """38.90 M, as mmdetection's ATSS R-50 with six blocks."""
    model = schema.ModelConfig(
        backbone=schema.ResNetConfig(style="caffe", norm="frozen"),
        dyhead=schema.DyHeadConfig(dcn_bias=False, lineage="mmdet"),
    )
    images, sizes = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.uint8), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    module = build(model)
    init = lambda k, i, s: module.init(k, i, s, method="detect")  # noqa: E731
    params = jax.eval_shape(init, jax.random.key(0), images, sizes)["params"]
    assert round(sum(p.size for p in jax.tree.leaves(params)) / 1e6, 2) == 38.90
