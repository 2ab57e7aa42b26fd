"""Parts of a fork bring the names of their weights with them: files are read and written without an edit here."""

import sys

import jax
import numpy as np
import pytest

from dyhead_jax import config as configs
from dyhead_jax import convert
from dyhead_jax.detectors import build
from dyhead_jax.training import initial, steps
from dyhead_jax.weights import files, layouts, pretrained, state_dict

FORK = """
import jax.numpy as jnp
from flax import linen as nn

from dyhead_jax.dyhead import SpatialAttention
from dyhead_jax.weights.names import Rule, Table


class Stages(nn.Module):
    '''Four strided convolutions.'''

    width: int = 4
    torch_names = {
        "own": Table(
            (
                *(Rule("stem.weight", "stem/kernel", "conv"), Rule("stem.bias", "stem/bias", "same")),
                *(Rule("stages.{}.weight", "stage{}/kernel", "conv"), Rule("stages.{}.bias", "stage{}/bias", "same")),
            ),
            ignored=(("classifier.*", "the classifier"),),
        )
    }

    @nn.compact
    def __call__(self, x, train):
        x, maps = nn.relu(nn.Conv(self.width, (2, 2), 2, name="stem")(x)), []
        for i in range(4):
            x = nn.relu(nn.Conv(self.width << i, (2, 2), 2, name=f"stage{i}")(x))
            maps.append(x)
        return maps


class Gate(nn.Module):
    '''A task attention.'''

    torch_names = {
        layout: Table((Rule("gate.weight", "gate/kernel", "linear"), Rule("gate.bias", "gate/bias", "same")))
        for layout in ("mmdet", "official")
    }

    @nn.compact
    def __call__(self, x):
        return x * nn.sigmoid(nn.Dense(x.shape[-1], name="gate")(x.mean((1, 2))))[:, None, None]


class Nameless(Gate):
    torch_names = {}


class Linear(SpatialAttention):
    '''Its "offset" is no convolution.'''

    @nn.compact
    def __call__(self, pyramid):
        return [[nn.Dense(self.features, name="offset")(x)] for x in pyramid[:1]] + [[x] for x in pyramid[1:]]
"""


@pytest.fixture(scope="module")
def fork(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own_names")
    (folder / "own_names.py").write_text(FORK)
    sys.path.insert(0, str(folder))
    yield
    sys.path.remove(str(folder))
    sys.modules.pop("own_names", None)


def config(**dyhead):
    options = {"num_blocks": 2, "features": 8, "norm_groups": 4} | dyhead
    result = configs.Config()
    result.model = configs.ModelConfig(
        num_classes=2,
        neck=configs.FPNConfig(features=8, levels=2),
        dyhead=configs.DyHeadConfig(**options),
        head=configs.ATSSConfig(towers=0),
    )
    result.model.backbone = "own_names:Stages"
    result.data.canvases = ((64, 64),)
    return result


def filled(config):
    """Random numbers for all parameters of a detector."""
    shapes = {"params": steps.survey(build(config.model), config.data.canvases[0]).shapes["params"]}
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda x: draw.normal(size=x.shape).astype(x.dtype), shapes)


@pytest.mark.parametrize("prefix", ["", "module.encoder."])
def test_weights_of_its_backbone(fork, prefix, tmp_path):
    experiment = config()
    params = filled(experiment)["params"]["backbone"]
    table = layouts.declared(experiment.model.backbone)["own"]
    state = {prefix + name: array for name, array in state_dict.save(table, {"params": params}).items()}
    assert set(state) == {
        f"{prefix}{layer}.{kind}"
        for layer in ("stem", *(f"stages.{i}" for i in range(4)))
        for kind in ("weight", "bias")
    }
    path = tmp_path / "weights.npz"
    files.write(path, state | {f"{prefix}classifier.weight": np.zeros((3, 8), np.float32)})
    shapes = {"params": jax.eval_shape(lambda: params)}
    got = pretrained.backbone(str(path), shapes, layouts.declared(experiment.model.backbone))
    jax.tree.map(np.testing.assert_array_equal, got, {"params": params})
    other = initial.read(path, experiment.model)
    np.testing.assert_array_equal(other.arrays["params", "backbone", "stem", "bias"], params["stem"]["bias"])
    with pytest.raises(pretrained.PretrainedError, match="fit no layout: mmdet"):
        pretrained.backbone(str(path), shapes)


def test_its_backbone_is_converted(fork, monkeypatch):
    """The rest is drawn by one trace of the model, however many arrays the file lacks."""
    experiment = config()
    params = filled(experiment)["params"]["backbone"]
    table = layouts.declared(experiment.model.backbone)["own"]
    traced, init = [], steps.init_variables
    monkeypatch.setattr(steps, "init_variables", lambda *args: traced.append(1) or init(*args))
    done = convert.convert(experiment, state_dict.save(table, {"params": params}))
    assert (done.layout, done.part) == ("own", "backbone")
    jax.tree.map(np.testing.assert_array_equal, done.variables["params"]["backbone"], params)
    assert len(traced) == 2  # shapes, and values


@pytest.mark.parametrize("scan", [False, True])
@pytest.mark.parametrize("layout", layouts.WHOLE)
def test_a_detector_with_an_attention_of_its_own_there_and_back(fork, layout, scan):
    experiment = config(task="own_names:Gate", scan=scan, dcn_bias=layout == "official")
    variables = filled(experiment)
    table = layouts.detector(experiment.model, layout)
    state = state_dict.save(table, variables)
    inside = {"mmdet": "neck.1.dyhead_blocks.1.gate.weight", "official": "backbone.dyhead_tower.1.gate.weight"}[layout]
    blocks = variables["params"]["dyhead"]
    kernel = blocks["blocks"]["task"]["gate"]["kernel"][1] if scan else blocks["block_1"]["task"]["gate"]["kernel"]
    np.testing.assert_array_equal(state[inside], kernel.T)
    assert layouts.detect(state) == layout
    back = state_dict.load(table, state, variables)
    jax.tree.map(np.testing.assert_array_equal, back, variables)


@pytest.mark.parametrize(
    ("part", "choice", "message"),
    [
        ("task", "own_names:Nameless", "config.model.dyhead.task: own_names:Nameless; a class of your own brings"),
        ("spatial", "none", "config.model.dyhead.spatial: switched off"),
        ("block", "own_names:Gate", None),
        ("block", "own_names:Nameless", "config.model.dyhead.block: own_names:Nameless"),
    ],
)
def test_a_part_without_names_is_named(fork, part, choice, message):
    model = config(**{part: choice}).model
    if message is None:
        rules = {rule.source: rule.target for rule in layouts.detector(model, "mmdet").rules}
        assert rules["neck.1.dyhead_blocks.1.gate.weight"] == "dyhead/block_1/gate/kernel"
        return
    with pytest.raises(layouts.LayoutError, match="the layout 'mmdet' has no names for") as error:
        layouts.detector(model, "mmdet")
    assert message in str(error.value)


def test_an_array_of_another_kind_is_named(fork):
    """A fork's class below a shipped one, whose table then does not fit."""
    experiment = config(spatial="own_names:Linear", num_blocks=1)
    with pytest.raises(state_dict.NamesError, match=r"dyhead/block_0/spatial/offset/kernel has shape \(8, 8\), which"):
        state_dict.save(layouts.detector(experiment.model, "official"), filled(experiment))
