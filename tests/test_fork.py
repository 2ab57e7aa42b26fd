"""The attentions of docs/add_attention.md, as they stand there, in a file outside the repository: options of their own
and two branches, without an edit here."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

import dyhead_jax
from dyhead_jax import benchmark, command, evaluate, train
from dyhead_jax import config as configs
from dyhead_jax.config import flags, nodes
from dyhead_jax.detectors import build
from dyhead_jax.dyhead import DyHead
from dyhead_jax.dyhead.branches import Branches
from dyhead_jax.training import optim, steps
from tests.detectors import tiny
from tests.docs import pages
from tests.export.command import run as export

PAGE = pages.files(pages.DOCS / "add_attention.md")["mine.py"]
MORE = """

class Transposed(nn.Module):
    def __call__(self, x):
        return x.swapaxes(0, 1)


from functools import partial

Eight = partial(MySpatial, num_points=8)
"""
RUN = '''"""A tiny run."""

from dyhead_jax.config import *


def get_config():
    return Config(
        model=ModelConfig(
            num_classes=6,
            backbone=ResNetConfig(depth=18, width=4),
            neck=FPNConfig(features=8, start=2, levels=2),
            dyhead=DyHeadConfig(num_blocks=1, features=8, norm_groups=4),
            head=ATSSConfig(),
        ),
        data=DataConfig(
            source=ShapesConfig(train_images=8, val_images=2, size=32),
            canvases=((32, 32),), short_side=(32,), long_side=32, batch_size=2, eval_batch_size=2, max_boxes=8,
        ),
        optim=OptimConfig(name="adamw", offset_rate=0.1, warmup_steps=0, backbone_rate=0.5),
        run=RunConfig(steps=2, eval_every=0, log_every=1, figure_images=0, compilation_cache="off"),
    )
'''
SPATIAL, TASK = "--config.model.dyhead.spatial=mine:MySpatial", "--config.model.dyhead.task=mine:TwoGates"


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    """A folder of its own with the fork's module and a config, importable here."""
    folder = tmp_path_factory.mktemp("fork")
    (folder / "mine.py").write_text(PAGE + MORE)
    (folder / "tiny.py").write_text(RUN)
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
    sys.modules.pop("mine", None)


def overridden(fork, *arguments):
    return flags.override(flags.load_file(str(fork / "tiny.py")), arguments)


def test_an_option_of_its_own_is_set_swept_and_read_back(fork):
    for points in (2, 8):
        changed = overridden(fork, SPATIAL, f"--config.model.dyhead.spatial.num_points={points}")
        assert changed.model.dyhead.spatial.num_points == points
        assert build(changed.model).dyhead.spatial.keywords == {"num_points": points}
        assert configs.from_json(configs.to_json(changed), trust=["mine"]) == changed
    assert json.loads(configs.to_json(changed))["model"]["dyhead"]["spatial"] == {
        "module": "mine:MySpatial",
        "num_points": 8,
    }
    # the order on the command line does not matter, and in a file it is an assignment
    assert overridden(fork, "--config.model.dyhead.spatial.num_points=8", SPATIAL) == changed
    direct = flags.load_file(str(fork / "tiny.py"))
    direct.model.dyhead.spatial = "mine:MySpatial"
    direct.model.dyhead.spatial.num_points = 8
    assert direct == changed
    with pytest.raises(AttributeError):
        direct.model.dyhead.spatial.num_point = 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SPATIAL, "--config.model.dyhead.spatial.num_point=8"], "no field 'num_point'; did you mean 'num_points'"),
        (["--config.model.dyhead.spatial=mine:MySpatia"], "has no 'MySpatia'; it has Branches, ClassVar, Eight, MySp"),
        ([SPATIAL, "--config.model.dyhead.spatial.num_points=many"], "num_points=many"),
        ([SPATIAL, "--config.model.dyhead.spatial.features=8"], "has no field 'features'"),
    ],
)
def test_what_the_fork_does_not_have_is_named(fork, arguments, message):
    with pytest.raises((command.UsageError, configs.ConfigError)) as error:
        overridden(fork, *arguments)
    assert message in command.one_line(error.value)


def test_a_partial_keeps_its_options(fork):
    changed = overridden(fork, "--config.model.dyhead.spatial=mine:Eight")
    assert changed.model.dyhead.spatial.num_points == 8
    import mine

    pyramid = [jnp.ones((1, 8, 8, 8)), jnp.ones((1, 4, 4, 8))]
    for spatial in (build(changed.model).dyhead.spatial, mine.Eight, "mine:Eight"):
        head = DyHead(num_blocks=1, features=8, spatial=spatial)
        variables = jax.eval_shape(head.init, jax.random.key(0), pyramid)
        assert variables["params"]["block_0"]["spatial"]["sampling"]["kernel"].shape == (8, 24)


def test_help_lists_the_options_of_the_fork(fork, capsys):
    path = fork / "forked.py"
    text = RUN.replace("norm_groups=4)", 'norm_groups=4, spatial="mine:MySpatial")')
    path.write_text(text)
    assert flags.parse(flags.parser("train.py", ""), [f"--config={path}", "--help"]) is None
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert '--config.model.dyhead.spatial=mine:MySpatial # "none": plain 3x3 convolutions' in lines
    assert "--config.model.dyhead.spatial.num_points=4 # samples of each map" in lines
    assert "--config.model.dyhead.task.reduction=4" in " ".join(lines)


@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (True, True),
        *(pytest.param(*row, marks=pytest.mark.long) for row in ((False, False), (False, True), (True, False))),
    ],
)
def test_its_sampling_layer_learns_at_the_rate_of_offsets(fork, scan, remat):
    changed = overridden(fork, SPATIAL, f"--config.model.dyhead.scan={scan}", f"--config.model.dyhead.remat={remat}")
    model = build(changed.model)
    parameters = steps.survey(model, (32, 32))
    block = "blocks" if scan else "block_0"
    assert parameters.offsets == {("dyhead", block, "spatial", "sampling", leaf) for leaf in ("kernel", "bias")}
    optimizer = optim.make_optimizer(changed.optim, 10, parameters)
    trained, _ = optim.partition(
        jax.tree.map(lambda x: np.ones(x.shape, x.dtype), parameters.shapes["params"]), parameters.is_frozen
    )
    updates, _ = jax.jit(lambda grads: optimizer.update(grads, optimizer.init(grads), grads))(trained)
    spatial = updates["dyhead"][block]["spatial"]
    np.testing.assert_allclose(spatial["sampling"]["kernel"], 0.1 * spatial["value"]["kernel"].mean(), rtol=1e-6)


HEADS = {
    "ATSS": configs.ATSSConfig(anchor_scale=4.0),
    "FasterRCNN": configs.FasterRCNNConfig(
        anchor_scale=4.0, rpn_features=8, rpn_samples=16, proposals_before=(20, 20), proposals=(8, 8), roi_levels=2,
        roi_samples=8, roi_sampling_ratio=2, fc_features=8, nms_candidates=20, max_detections=10,
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("kind", HEADS)
def test_both_are_trained_evaluated_exported_and_opened(fork, kind, capsys, monkeypatch, tmp_path):
    changed = overridden(
        fork, SPATIAL, TASK, "--config.model.dyhead.spatial.num_points=3", "--config.run.parallel=single"
    )
    changed.model.head = HEADS[kind]
    folder = tmp_path / "run"
    assert train.train(changed, folder) == 0
    printed = capsys.readouterr().out
    assert "optim.offset_rate 0.1 is for 81 parameters" in printed  # Dense(9) of eight channels
    assert "note: config.model.dyhead.norm_groups=4 has no effect: no attention has such a field" in printed
    monkeypatch.setattr(sys, "argv", ["evaluate", "--workdir", str(folder), "--trust", "mine"])
    evaluate._main()
    assert capsys.readouterr().out.splitlines()[-1] == printed.splitlines()[-1]  # the AP of the run's own end
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    file = tmp_path / "picture.png"
    Image.fromarray(picture).save(file)
    found = dyhead_jax.load(folder, trust=["mine"])(picture)
    for form, at in (("safetensors", tmp_path / "hub"), ("stablehlo", tmp_path / "hlo")):
        arguments = ["--workdir", folder, "--trust", "mine", "--format", form, "--out", at, "--check", file]
        assert export(*arguments)[0] == 0
    again = dyhead_jax.load(tmp_path / "hub", trust=["mine"])(picture)
    np.testing.assert_array_equal(found.boxes, again.boxes)


@pytest.mark.long
def test_both_are_benchmarked(fork, capsys, monkeypatch):
    arguments = "block --size 32x40 --levels 2 --channels 16 --forward --repeats 1 --attention"
    own = ["spatial=mine:MySpatial", "spatial.num_points=2", "task=mine:TwoGates"]
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments.split(), *own])
    benchmark.main()
    assert f"{' '.join(own)} forward" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["benchmark", *arguments.split(), own[0], "spatial.num_point=2"])
    with pytest.raises(command.UsageError, match="no field 'num_point'; did you mean 'num_points'"):
        benchmark.main()


# Two branches


@pytest.mark.long
@pytest.mark.parametrize(
    ("scan", "remat"),
    [
        (True, True),
        *(pytest.param(*row, marks=pytest.mark.long) for row in ((False, False), (False, True), (True, False))),
    ],
)
def test_branches_leave_the_last_block(fork, scan, remat):
    pyramid = [jnp.ones((1, 8, 8, 8)), jnp.ones((1, 4, 4, 8))]
    head = DyHead(num_blocks=2, features=8, norm_groups=4, task="mine:TwoGates", scan=scan, remat=remat)
    out, variables = jax.jit(head.init_with_output)(jax.random.key(0), pyramid)
    assert [type(level) for level in out] == [Branches, Branches]
    assert out[0].classification.shape == (1, 8, 8, 8)
    assert not np.allclose(out[0].classification, out[0].regression)
    if scan:  # the same weights without the loop
        params = variables["params"]["blocks"]
        apart = {f"block_{i}": jax.tree.map(lambda x, i=i: x[i], params) for i in range(2)}
        again = head.clone(scan=False, remat=False).apply({"params": apart}, pyramid)
        for one, other in zip(jax.tree.leaves(out), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-6)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["FCOS", "ATSS", "RetinaNet"])
def test_a_detector_trains_with_two_branches(fork, kind):
    head = {
        "ATSS": configs.ATSSConfig(anchor_scale=2.0),
        "FCOS": configs.FCOSConfig(towers=0, level_limits=(64.0,)),
        "RetinaNet": configs.RetinaNetConfig(towers=0),
    }[kind]
    changed = overridden(fork, TASK, "--config.model.dyhead.num_blocks=2")
    changed.model.head = head
    model = build(changed.model)
    assert nodes.options_of(changed.model.dyhead.task) == {"dropout": 0.0}
    parameters = steps.survey(model, (32, 32))
    draw = np.random.default_rng(0)
    params = jax.tree.map(lambda x: draw.normal(0, 0.1, x.shape).astype(x.dtype), parameters.shapes["params"])
    stats = jax.tree.map(lambda x: np.ones(x.shape, x.dtype), parameters.shapes["batch_stats"])
    truth = tiny.truth([[[2, 2, 94, 62]], [[16, 4, 80, 60]]], sizes=[[64, 96], [64, 96]])
    images = tiny.images(2)

    @steps.jit_once
    def grads(params):
        variables = {"params": params, "batch_stats": stats}
        return jax.grad(lambda p: sum(model.apply(variables | {"params": p}, images, truth, method="losses").values()))(
            params
        )

    found = grads(params)
    gate = found["dyhead"]["block_1"]["task"]["gate"]["kernel"]
    assert (np.abs(gate).max(axis=0) > 0).all()  # of both branches


def test_a_result_of_another_shape_names_attention_and_level(fork):
    pyramid = [jnp.ones((2, 8, 8, 8)), jnp.ones((2, 4, 4, 8))]
    head = DyHead(num_blocks=1, features=8, norm_groups=4, task="mine:Transposed")
    with pytest.raises(ValueError, match=r"task attention Transposed, level 0: returns float32\[8, 2, 8, 8\], not"):
        jax.eval_shape(head.init, jax.random.key(0), pyramid)
