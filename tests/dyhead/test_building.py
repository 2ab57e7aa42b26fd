"""What reaches an attention: `train`, random numbers, batch statistics, a mapped axis; and how faults are named."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax.config import OptimConfig
from dyhead_jax.dyhead import DyHead, DyHeadBlock, ScaleAttention, SpatialAttention, TaskAttention
from dyhead_jax.dyhead.building import OFF, hand_down, misspelt
from dyhead_jax.dyhead.head import HANDED_DOWN
from dyhead_jax.training import optim, steps
from dyhead_jax.types import Batch
from tests.detectors import tiny
from tests.detectors.kinds import KINDS
from tests.dyhead import attentions
from tests.dyhead.attentions import SEEN

HERE = "tests.dyhead.attentions"
C = 8
FORMS = [{}, {"scan": True}, {"remat": True}, {"scan": True, "remat": True}]


def pyramid(batch=2):
    draw = np.random.default_rng(0)
    return [jnp.asarray(draw.normal(size=(batch, *size, C)), jnp.float32) for size in ((4, 6), (2, 3))]


def head(**fields):
    own = {"num_blocks": 2, "features": C, "norm_groups": 4, "spatial": f"{HERE}:Own", "scale": None, "task": None}
    return DyHead(**(own | fields))


def shapes_of(module, *args, **options):
    return jax.eval_shape(lambda: module.init_with_output(jax.random.key(0), *args, **options))


# `train`, random numbers, statistics


@pytest.mark.parametrize("form", FORMS, ids=lambda form: "+".join(form) or "plain")
def test_train_reaches_all_attentions_that_declare_it(form):
    module = head(spatial=f"{HERE}:SeenSpatial", scale=f"{HERE}:SeenScale", task=f"{HERE}:SeenTask", **form)
    for train in (True, False):
        SEEN.clear()
        shapes_of(module, pyramid(), train=train)
        assert {kind for kind, _ in SEEN} == {"spatial", "scale", "task"}
        assert all(given is train for _, given in SEEN)  # a bool of Python, also where the block is recomputed


@pytest.mark.parametrize(
    "form",
    [FORMS[0], FORMS[3], *(pytest.param(form, marks=pytest.mark.long) for form in FORMS[1:3])],
    ids=lambda form: "+".join(form) or "plain",
)
def test_each_block_has_random_numbers_and_statistics_of_its_own(form):
    module, maps = head(task=f"{HERE}:Both", **form), pyramid()
    variables = steps.jit_once(module.init)(jax.random.key(0), maps)
    names = {"blocks"} if form.get("scan") else {"block_0", "block_1"}
    assert variables["batch_stats"].keys() == variables["params"].keys() == names

    @steps.jit_once
    def step(variables, key):
        def total(params):
            out, changed = module.apply(
                variables | {"params": params},
                maps,
                train=True,
                rngs={"dropout": key},
                mutable=["batch_stats", "intermediates"],
            )
            return sum(jnp.sum(x**2) for x in out), changed

        return jax.grad(total, has_aux=True)(variables["params"])

    gradients, changed = step(variables, jax.random.key(1))
    assert all(bool(jnp.any(g != 0)) for g in jax.tree.leaves(gradients))
    means = jax.tree.leaves(
        jax.tree.map(lambda a, b: np.abs(a - b).max(), changed["batch_stats"], variables["batch_stats"])
    )
    assert min(means) > 0
    masks = changed["intermediates"]
    finest = (
        masks["blocks"]["task"]["mask"][0]
        if form.get("scan")
        else [masks[f"block_{i}"]["task"]["mask"][0] for i in range(2)]
    )
    assert not np.array_equal(finest[0], finest[1])
    shape = changed["batch_stats"][min(names)]["task"]["norm"]["mean"].shape
    assert shape == ((2, C) if form.get("scan") else (C,))
    other, _ = step(variables, jax.random.key(2))
    assert not np.array_equal(jax.tree.leaves(other)[0], jax.tree.leaves(gradients)[0])
    # in evaluation none is needed, and nothing moves
    out, changed = jax.eval_shape(lambda v: module.apply(v, maps, mutable=["batch_stats"]), variables)
    assert [x.shape for x in out] == [x.shape for x in maps]


def test_statistics_are_those_of_the_batch_on_all_devices():
    maps = pyramid(4)
    variables = steps.jit_once(head(task=f"{HERE}:Both").init)(jax.random.key(0), maps)

    def statistics(axis_name):
        module = head(task=f"{HERE}:Both", axis_name=axis_name, num_blocks=1)
        return lambda x: module.apply(
            variables, x, train=True, rngs={"dropout": jax.random.key(0)}, mutable="batch_stats"
        )[1]

    whole = jax.jit(statistics(None))(maps)
    split = jax.pmap(statistics("batch"), axis_name="batch")([x.reshape(2, 2, *x.shape[1:]) for x in maps])
    for one, other in zip(jax.tree.leaves(split), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(one[0], one[1])
        np.testing.assert_allclose(one[0], other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "kind", ["faster_rcnn", *(pytest.param(k, marks=pytest.mark.long) for k in KINDS if k != "faster_rcnn")]
)
def test_training_and_detection_of_a_detector_say_which_they_are(kind):
    cls, options = KINDS[kind]
    options = options | ({"task": f"{HERE}:SeenTask"} if kind == "faster_rcnn" else {})
    model = tiny.make(cls, blocks=0, **options).clone(dyhead=head(features=tiny.FEATURES, task=f"{HERE}:SeenTask"))
    truth = tiny.truth([[[10, 10, 34, 40]]], sizes=[tiny.CANVAS])
    images = tiny.images(1)
    calls = 2 * 3 + (2 if kind == "faster_rcnn" else 0)  # blocks times levels, and the second stage
    SEEN.clear()
    variables = jax.eval_shape(lambda: model.init(jax.random.key(0), images, truth.sizes, method="detect"))
    assert [("task", False)] * calls == SEEN
    for train in (True, False):
        SEEN.clear()
        jax.eval_shape(lambda v, train=train: model.apply(v, images, truth, train, method="losses"), variables)
        assert [("task", train)] * calls == SEEN


def test_a_train_step_in_two_parts_carries_their_statistics():
    cls, options = KINDS["retinanet"]
    model = tiny.make(cls, blocks=0, **options).clone(
        dyhead=head(features=tiny.FEATURES, task=f"{HERE}:Both", scan=True, remat=True)
    )
    parameters = steps.survey(model, tiny.CANVAS)
    assert parameters.shapes["batch_stats"]["dyhead"]["blocks"]["task"]["norm"]["mean"].shape == (2, tiny.FEATURES)
    optimizer = optim.make_optimizer(OptimConfig(), 2, parameters)
    schedule = optim.make_schedule(OptimConfig(), 2)
    step = steps.make_train_step(model, optimizer, schedule, parameters, accumulate=2)
    state = jax.eval_shape(lambda v: steps.create_state(parameters, optimizer, v), parameters.shapes)
    batch = Batch(images=tiny.images(2), ground_truth=tiny.truth([[[10, 10, 34, 40]], []], sizes=[tiny.CANVAS] * 2))
    after, _ = jax.eval_shape(step, state, batch)
    assert jax.tree.map(lambda x: x.shape, after.batch_stats) == jax.tree.map(lambda x: x.shape, state.batch_stats)


# Writing a block


def test_a_block_of_another_order_is_written_with_the_helpers():
    module = head(block=f"{HERE}:TaskFirst", task=f"{HERE}:Widened")
    out, variables = shapes_of(module, pyramid(), train=True)
    assert [x.shape for x in out] == [x.shape for x in pyramid()]
    assert variables["params"]["block_0"]["task"]["squeeze"]["kernel"].shape == (C, 3)  # the block's own field
    with pytest.raises(ValueError, match="spatial attention Stacked: returns a list of 2 "):
        shapes_of(head(block=f"{HERE}:TaskFirst", spatial=f"{HERE}:Stacked"), pyramid())


@pytest.mark.parametrize("form", [{}, {"scan": True}], ids=["plain", "scan"])
def test_what_a_block_returns_is_checked(form):
    with pytest.raises(
        ValueError, match=r"block OneLevel: returns a list of 1 \(float32\[2, 4, 6, 8\]\), not a list of 2"
    ):
        shapes_of(head(block=f"{HERE}:OneLevel", **form), pyramid())
    with pytest.raises(
        ValueError, match=r"block Doubled, level 0: returns float32\[2, 4, 6, 16\], not float32\[2, 4, 6, 8\]"
    ):
        shapes_of(head(block=f"{HERE}:Doubled", **form), pyramid())


@pytest.mark.parametrize(
    ("spatial", "found"),
    [
        ("Stacked", r"a list of 2 \(float32\[2, 2, 4, 6, 8\], float32\[2, 2, 2, 3, 8\]\)"),
        ("OneList", r"a list of 2 \(float32\[2, 4, 6, 8\], float32\[2, 2, 3, 8\]\)"),
    ],
)
def test_candidates_that_are_no_lists_of_maps_are_named(spatial, found):
    with pytest.raises(ValueError, match=rf"spatial attention {spatial}: returns {found}, not a list") as error:
        shapes_of(head(spatial=f"{HERE}:{spatial}"), pyramid())
    assert "not a list for each level of a list of maps (b, h, w, features)" in str(error.value)


@pytest.mark.parametrize("scale", ["ThreeAtOnce", "Three"])
def test_a_scale_attention_that_needs_three_candidates_says_how_many_there_are(scale):
    maps = [jnp.zeros((1, s, s, C)) for s in (8, 4, 2)]
    module = head(spatial=SpatialAttention, scale=f"{HERE}:{scale}")
    wanted = rf"scale attention {scale} fails at level \d, which has \d candidates \(the levels have 2, 3, 2\): "
    with pytest.raises(ValueError, match=wanted) as error:
        shapes_of(module, maps)
    assert "\n" not in str(error.value)


def test_a_misspelt_field_is_an_error():
    with pytest.raises(
        ValueError, match=r"Misspelt has a field 'feature', which nothing is handed down to; is it 'features'"
    ):
        shapes_of(head(spatial=f"{HERE}:Misspelt"), pyramid())
    out, _ = shapes_of(head(spatial=partial(attentions.Misspelt, feature=C)), pyramid())  # set by hand: an option
    assert len(out) == 2
    assert misspelt(attentions.Misspelt, HANDED_DOWN) == {"feature": "features"}
    for shipped in (DyHeadBlock, DyHead, SpatialAttention, ScaleAttention, TaskAttention, OFF["spatial"]):
        assert misspelt(shipped, HANDED_DOWN) == {}


def test_only_what_is_declared_is_handed_down():
    for module in (TaskAttention(), attentions.Own(), nn.relu, OFF["scale"]):
        assert hand_down(module, train=True) is module
    assert hand_down(TaskAttention(), valid=None, train=True) != hand_down(TaskAttention(), valid=1, train=True)
    assert hand_down(TaskAttention(), valid=1, train=True).keywords == {"valid": 1}
