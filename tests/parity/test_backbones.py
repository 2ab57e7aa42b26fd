"""Backbones and necks against golden files: any case of the folder whose manifest describes one is run."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.backbones.swin import Swin
from dyhead_jax.config import nodes
from dyhead_jax.training import steps
from dyhead_jax.weights import names
from tests.parity import mmdet_model
from tests.parity.goldens import Case, cases, nchw, nhwc, notes, relative

TOLERANCE = 1e-5


def _config(case: Case) -> dict:
    """The mmdetection backbone that the manifest describes, or {}."""
    config = case.params.get("config", case.params)
    config = config.get("backbone", config)
    return config if str(config.get("type")) in ("ResNet", "ResNeXt", "SwinTransformer") else {}


BACKBONES = [c for c in cases("D") if _config(c)]
RESNETS = [c for c in BACKBONES if "Res" in _config(c)["type"] and (c.has("backbone/c") or c.has("out/f0"))]
NECKS = [c for c in BACKBONES if c.has("fpn/p") and c.has("backbone/c")]
SWINS = [c for c in cases("G") if c.has("w/patch_embed.")]


def _zeros(model, *arguments) -> dict:
    """The model's variables, all zero: what a file may lack (norms of unused maps) needs some value."""
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), *arguments))
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


def _run(model, table, weights, inputs, count, dtype) -> list[np.ndarray]:
    """The last `count` maps, as NCHW, of the model with the case's weights."""
    model = model.clone(dtype=jnp.dtype(dtype))
    inputs = jax.tree.map(lambda x: jnp.asarray(nhwc(x), dtype), inputs)
    arguments = (inputs,) if isinstance(inputs, list) else (inputs, False)  # a neck, a backbone
    variables = names.load(table, weights, _zeros(model, *arguments))
    variables = jax.tree.map(lambda v: jnp.asarray(v, dtype), variables)
    maps = steps.jit_once(lambda v: model.apply(v, *arguments))(variables)
    return [nchw(m) for m in maps[len(maps) - count :]]


def _check(case: Case, model, table, weights, inputs, keys: list[str]) -> None:
    """Within TOLERANCE in float32; or, where the manifest says how far the reference's own float32 is from its float64,
    in float64 no further from the file than that: then our float64 is the reference's."""
    got = _run(model, table, weights, inputs, len(keys), "float32")
    errors = [relative(g, case[key]) for g, key in zip(got, keys, strict=True)]
    if max(errors) <= TOLERANCE:
        return
    own = case.manifest.get("err_f32_vs_f64")
    assert own, f"relative errors {errors}"
    with jax.enable_x64(True):
        got = _run(model, table, weights, inputs, len(keys), "float64")
    for g, key, error in zip(got, keys, own, strict=True):
        bound = 1.001 * error["maxabs"] + 1e-7 * error["scale"]
        assert np.abs(g - case[key]).max() <= bound, f"{key}: float32 errors {errors}"
    notes.append(f"{case.name}: ill conditioned in float32 ({max(errors)}); taken in float64")


@pytest.mark.parametrize("case", RESNETS, ids=lambda c: c.name)
def test_resnet_maps(case):
    whole = case.has("w/backbone.")
    weights = case.under("w/backbone." if whole else "w/")
    pattern = "backbone/c*" if whole else "out/f*"
    keys = [pattern.replace("*", str(number)) for number in case.numbers(pattern)]
    _check(case, nodes.build(mmdet_model.resnet(_config(case))), names.resnet, weights, case["in/img"], keys)


@pytest.mark.parametrize("case", NECKS, ids=lambda c: c.name)
def test_fpn_levels(case):
    neck = case.params["config"]["neck"]
    prefix, neck = ("w/neck.0.", neck[0]) if isinstance(neck, list) else ("w/neck.", neck)
    maps = case.numbered("backbone/c*")
    config = mmdet_model.fpn(neck)
    keys = [f"fpn/p{level}" for level in case.numbers("fpn/p*")]
    assert len(keys) == config.levels
    _check(case, nodes.build(config), names.fpn_mmdet(len(maps) - config.start), case.under(prefix), maps, keys)


def _swin_official(case: Case) -> Swin:
    p = case.params
    return Swin(p["embed_dim"], tuple(p["depths"]), tuple(p["num_heads"]), p["window_size"], p["drop_path_rate"])


@pytest.mark.parametrize("case", SWINS, ids=lambda c: c.name)
def test_official_swin_maps(case):
    keys = [f"out/stage{stage}" for stage in case.numbers("out/stage*")]
    _check(case, _swin_official(case), names.swin_official, case.under("w/"), case["in/img"], keys)
