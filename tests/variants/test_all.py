"""What holds for every variant: shapes and dtypes, any number of levels, images apart from each other, gradients."""

import dataclasses
import runpy
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from dyhead_jax.config import ConfigError, DyHeadConfig, ModelConfig, flags, nodes, ranges, validate
from dyhead_jax.config.value_types import wrong_type
from dyhead_jax.detectors import build
from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.training import overview, parallel
from dyhead_jax.training.parameters import trace_parameters
from dyhead_jax.training.steps import survey
from tests.variants.kinds import KINDS, C, drawn, head, pyramid

FILE = Path(__file__).resolve().parents[2] / "configs" / "variants.py"
VARIANTS = runpy.run_path(str(FILE))["VARIANTS"]
OFFSETS = {"paper": 1, "dcnv3": 1, "dcnv4": 1, "msdeform": 1}  # layers that predict sampling positions


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("levels", "options"),
    [
        (1, {}),
        (2, {"num_blocks": 2, "scan": True, "remat": True, "dtype": jnp.bfloat16}),
        pytest.param(5, {"valid_area": True}, marks=pytest.mark.long),
    ],
    ids=["one level", "scan remat bfloat16", "five levels valid"],
)
def test_shapes_and_dtypes(kind, levels, options):
    maps = pyramid(levels)
    valid = [jnp.ones(x.shape[:3], bool) for x in maps]
    out, _ = jax.eval_shape(head(kind, **options).init_with_output, jax.random.key(0), maps, valid)
    assert len(out) == levels
    for level, x in zip(out, maps, strict=True):
        assert isinstance(level, Branches) == (kind in ("branches", "decompose"))
        for result in jax.tree.leaves(level):
            assert (result.shape, result.dtype) == (x.shape, options.get("dtype", jnp.float32))


@pytest.mark.parametrize("kind", OFFSETS)
def test_layers_that_predict_positions_say_so_and_channels_may_differ(kind):
    model, maps = head(kind), pyramid(2, c=6)
    parameters = trace_parameters(model, lambda: model.init(jax.random.key(0), maps))
    assert {path[-2] for path in parameters.offsets} == {"offset"}
    assert len(parameters.offsets) == 2 * OFFSETS[kind]


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_images_stay_apart_and_everything_learns(kind):
    """The gradient of the first image's result reaches each parameter, no other image, and with the batch spread over
    eight devices no map is gathered."""
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    maps, model = pyramid(3, batch=8), head(kind)
    variables = drawn(model, maps)
    valid = [jnp.ones(x.shape[:3], bool).at[:, -1].set(False) for x in maps]

    def first(variables, maps):
        return sum(
            jnp.sum(jnp.sin(x[0])) for x in jax.tree.leaves(model.clone(valid_area=True).apply(variables, maps, valid))
        )

    placed = jax.device_put(maps, NamedSharding(mesh, PartitionSpec("batch")))
    step = jax.jit(jax.grad(first, (0, 1))).lower(variables, placed).compile()
    assert "all-gather" not in step.as_text()
    of_variables, of_maps = step(jax.device_put(variables, NamedSharding(mesh, PartitionSpec())), placed)
    for path, g in jax.tree_util.tree_leaves_with_path(of_variables):
        assert np.isfinite(g).all(), path
        assert np.any(np.asarray(g) != 0), path
    for g in of_maps:
        assert np.isfinite(g).all()
        assert np.any(np.asarray(g)[0] != 0)
        assert not np.any(np.asarray(g)[1:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_its_config_is_made(variant):
    """All that the file names exists, and the modules take what it says."""
    config = flags.load_file(f"{FILE}:{variant}")
    validate(config)
    assert config.run.steps == 300
    model = build(config.model)
    assert type(model).__name__ == ("TOOD" if variant == "tood" else "ATSS")
    if variant in KINDS:
        fields = {field: getattr(model.dyhead, field) for field in ("block", "spatial", "scale", "task")}
        for field, choice in KINDS[variant].items():
            if choice != "none":
                expected = getattr(choice, "func", choice)
                assert getattr(fields[field], "func", fields[field]) is getattr(expected, "func", expected)


@pytest.mark.parametrize("variant", [pytest.param(v, marks=[] if v == "pconv" else pytest.mark.long) for v in VARIANTS])
def test_no_learning_rate_of_its_config_is_for_nothing(variant, capsys):
    config = flags.load_file(f"{FILE}:{variant}")
    overview.describe(survey(build(config.model), (64, 64)), parallel.Single(), config)  # raises if one is
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("optim.offset_rate")]
    assert len(said) == (variant != "pconv")
    assert all((" 0 parameters" in line) == (variant == "none") for line in said)


def test_another_name_lists_those_there_are():
    with pytest.raises(ConfigError, match=r":dcn does not exist; it may be :dyhead, :none, :paper"):
        flags.load_file(f"{FILE}:dcn")


PATHS = ["paper_block:PaperBlock", "dcn_v4:DCNv3", "dcn_v4:DCNv4", "ms_deform:MultiScaleDeformable"]
PATHS += ["selective_kernel:SelectiveKernel", "branch_gates:BranchGates", "task_decomposition:TaskDecomposition"]
PATHS = [f"dyhead_jax.variants.{path}" for path in PATHS] + ["dyhead_jax.detectors.tood:TOOD"]


@pytest.mark.parametrize("path", PATHS)
def test_every_number_has_a_range(path):
    place = (DyHeadConfig, "spatial") if "variants" in path else (ModelConfig, "head")
    node = nodes.make_node(path, nodes.handed_down(*place))
    rules = ranges.rules_of(node)
    assert wrong_type(node) is None
    for field in dataclasses.fields(node):
        value = getattr(node, field.name)
        if not isinstance(value, str | bool):
            assert rules[field.name].allows(value)
            assert not rules[field.name].allows((-1.0,) * len(value) if isinstance(value, tuple) else -1)
    assert set(rules) <= {field.name for field in dataclasses.fields(node)}


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("dcnv4", {"features": 6}, "DCNv4: group_features 4 does not divide 6 features"),
        ("msdeform", {"features": 9}, "MultiScaleDeformable: 2 heads do not divide 9 features"),
        ("dcnv4", {"spatial": "dyhead_jax.variants.dcn_v4:DCNv4"}, "group_features 16 does not divide 8 features"),
    ],
)
def test_channels_that_do_not_divide_are_named(kind, options, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(head(kind, **options).init, jax.random.key(0), pyramid(1, c=C))


@pytest.mark.parametrize(("kind", "option"), [("dcnv4", "modulation"), ("sk", "gate")])
def test_a_wrong_choice_is_named(kind, option):
    field, choice = next((f, c) for f, c in KINDS[kind].items() if c != "none")
    module = getattr(choice, "func", choice)(**{option: "both"})
    maps = pyramid(1)
    with pytest.raises(ValueError, match=f"{option} is 'both'; it may be"):
        module.init(jax.random.key(0), maps if field == "spatial" else [maps[0]])
