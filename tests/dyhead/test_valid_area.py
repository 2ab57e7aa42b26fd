"""With `valid_area` means and norms are those of the map without padding; without it nothing is known of padding."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from dyhead_jax import detectors
from dyhead_jax.config import DyHeadConfig, EfficientNetLiteConfig, FPNConfig, ModelConfig, ResNetConfig, SwinConfig
from dyhead_jax.detectors.detector import Detector
from dyhead_jax.dyhead import DyHead, DyHeadBlock, ScaleAttention, SpatialAttention, TaskAttention, spatial
from dyhead_jax.dyhead.building import hand_down, mean_of_candidates
from dyhead_jax.dyhead.spatial import PlainNeighbours
from dyhead_jax.dyhead.valid_area import valid_cells
from dyhead_jax.training import steps

pytestmark = pytest.mark.long

C = 8
IMAGE = [(7, 10), (4, 5), (2, 3)]  # levels of an image without padding
CANVAS = [(12, 13), (6, 7), (3, 4)]  # of the same on a canvas


def valid():
    """The second image of the batch fills the canvas."""
    masks = []
    for (h, w), (rows, columns) in zip(CANVAS, IMAGE, strict=True):
        mask = np.zeros((2, h, w), bool)
        mask[0, :rows, :columns] = mask[1] = True
        masks.append(jnp.asarray(mask))
    return masks


def pyramid(padding):
    """Two images; `padding`, a number or "noise", is what the maps of the first hold beyond it."""
    rng = np.random.default_rng(0)
    maps = [rng.normal(size=(2, *size, C)).astype(np.float32) for size in CANVAS]
    for x, mask in zip(maps, valid(), strict=True):
        if padding != "noise":
            x[~np.asarray(mask)] = padding
    return [jnp.asarray(x) for x in maps]


def cropped(maps):
    """The first image without padding."""
    return [x[:1, :h, :w] for x, (h, w) in zip(maps, IMAGE, strict=False)]


def init(module, x):
    variables = steps.jit_once(module.init)(jax.random.key(1), x)
    draw = np.random.default_rng(0)
    return jax.tree.map(lambda v: v + 0.3 * draw.normal(size=v.shape).astype(np.float32), variables)


@pytest.mark.parametrize("module", [ScaleAttention(), TaskAttention()], ids=["scale", "task"])
def test_means_of_scale_and_task_are_those_of_the_map_without_padding(module):
    """Whatever lies in the padding: the result inside the image is the one without it."""
    x = pyramid("noise")[0]
    wrap = (lambda x: [x, x + 1]) if isinstance(module, ScaleAttention) else lambda x: x
    variables = init(module, wrap(x))
    (h, w), mask = IMAGE[0], valid()[0]
    apply = jax.jit(module.apply)
    wanted, found = apply(variables, wrap(x[:1, :h, :w])), apply(variables, wrap(x), mask)
    plain = apply(variables, wrap(x))
    np.testing.assert_allclose(found[:1, :h, :w], wanted, atol=2e-6)
    assert np.abs(plain[:1, :h, :w] - wanted).max() > 1e-3
    np.testing.assert_allclose(found[1], plain[1], atol=2e-6)


@pytest.mark.parametrize("module", [SpatialAttention(C, "crop", 2), PlainNeighbours(C, 2)], ids=["spatial", "plain"])
def test_norms_of_spatial_are_those_of_the_map_without_padding(module):
    """Where the padding holds zeros, as sampling beyond a map gives. Not where a coarser map was upsampled: its corners
    are aligned with those of the canvas."""
    maps = pyramid(0.0)
    variables = init(module, maps)
    apply = jax.jit(module.apply)
    wanted, found, plain = apply(variables, cropped(maps)), apply(variables, maps, valid()), apply(variables, maps)
    for level, (h, w) in enumerate(IMAGE):
        for name in range(2 if level else 1):  # own, finer
            inside = [x[level][name][:1, :h, :w] for x in (found, plain)]
            np.testing.assert_allclose(inside[0], wanted[level][name], atol=2e-5)
            assert np.abs(inside[1] - wanted[level][name]).max() > 1e-3
            np.testing.assert_allclose(found[level][name][1], plain[level][name][1], atol=2e-5)


@pytest.mark.parametrize("coarse_offsets", ["flat", "upsample_first"])
def test_norms_of_the_coarser_neighbour_are_taken_over_the_image(coarse_offsets, monkeypatch):
    """Every map that is normalised has mean 0 and variance 1 over the cells on the image; "flat" is seen before it is
    upsampled."""
    if coarse_offsets == "flat":
        monkeypatch.setattr(spatial, "upsample_align_corners", lambda x, size: x)
    module = SpatialAttention(C, coarse_offsets, 2)
    maps, masks = pyramid("noise"), valid()
    variables = steps.jit_once(module.init)(jax.random.key(1), maps)  # norms are 1 and 0
    found = jax.jit(module.apply)(variables, maps, masks)
    chosen = [(found[level][0], masks[level]) for level in range(3)]
    chosen += [(found[level][1], masks[level]) for level in (1, 2)]
    coarser = 1 if coarse_offsets == "flat" else 0
    chosen += [(found[level][-1], masks[level + coarser]) for level in (0, 1)]
    for x, mask in chosen:
        for image in range(2):
            groups = np.asarray(x[image])[np.asarray(mask[image])].reshape(-1, 2, C // 2)
            np.testing.assert_allclose(groups.mean((0, 2)), 0, atol=1e-5)
            np.testing.assert_allclose(groups.std((0, 2)), 1, atol=1e-3)


def test_a_block_of_one_level_is_that_of_the_image_without_padding():
    maps = pyramid(0.0)[:1]
    block = DyHeadBlock(features=C, norm_groups=2)
    variables = init(block, maps)
    h, w = IMAGE[0]
    apply = jax.jit(block.apply)
    wanted = apply(variables, cropped(maps))[0]
    np.testing.assert_allclose(apply(variables, maps, valid()[:1])[0][:1, :h, :w], wanted, atol=2e-5)
    assert np.abs(apply(variables, maps)[0][:1, :h, :w] - wanted).max() > 1e-3


class Blind(nn.Module):
    """A fork's task attention that knows nothing of it."""

    def __call__(self, x):
        return x / 2


class Seeing(nn.Module):
    """One that does."""

    def __call__(self, x, valid=None):
        return x if valid is None else jnp.where(valid[..., None], x, -1.0)


@pytest.mark.parametrize("fields", [{}, {"scan": True, "remat": True}], ids=["plain", "scan+remat"])
def test_the_stack_hands_it_to_those_who_take_it(fields):
    """To every block: what the second one's task attention marks is seen behind it."""
    maps, masks = pyramid(0.0)[:2], valid()[:2]
    head = DyHead(
        num_blocks=2,
        features=C,
        norm_groups=2,
        spatial="none",  # compiles fast
        task=f"{__name__}:Seeing",
        valid_area=True,
        **fields,
    )
    variables = steps.jit_once(head.init)(jax.random.key(0), maps)

    @jax.jit
    def run(v):
        out, back = jax.vjp(lambda v: head.apply(v, maps, masks), v)
        return out, back(out)[0]

    out, gradients = run(variables)
    for x, mask in zip(out, masks, strict=True):
        assert (np.asarray(x)[~np.asarray(mask)] == -1).all()
    assert all(bool(jnp.isfinite(g).all()) and bool(jnp.any(g != 0)) for g in jax.tree.leaves(gradients))


def test_switched_off_it_is_not_in_the_program():
    head = DyHead(num_blocks=1, features=C, norm_groups=2, valid_area=False)
    maps, masks = pyramid(0.0), valid()
    variables = jax.eval_shape(head.init, jax.random.key(0), maps)
    program = str(jax.make_jaxpr(lambda v, x: head.apply(v, x))(variables, maps))
    assert str(jax.make_jaxpr(lambda v, x: head.apply(v, x, masks))(variables, maps)) == program
    on = head.clone(valid_area=True)
    assert str(jax.make_jaxpr(lambda v, x: on.apply(v, x))(variables, maps)) == program
    assert str(jax.make_jaxpr(lambda v, x: on.apply(v, x, masks))(variables, maps)) != program


def test_modules_that_do_not_take_it_are_called_as_ever():
    for module in (Blind(), nn.relu, mean_of_candidates):
        assert hand_down(module, valid=valid()) is module
    seeing = Seeing()
    assert hand_down(seeing, valid=None) is seeing
    head = DyHead(num_blocks=1, features=C, norm_groups=2, task=f"{__name__}:Blind", scale="none", valid_area=True)
    jax.eval_shape(head.init_with_output, jax.random.key(0), pyramid(0.0), valid())


class Halved(nn.Module):
    """In the place of backbone and neck: strides 8 and 16."""

    start: int = 1
    levels: int = 2

    def __call__(self, x, train=False):
        return x if isinstance(x, list) else [x[:, ::8, ::8], x[:, ::16, ::16]]


class Bare(Detector):
    """No predictors."""

    def predict(self, pyramid):
        return {}


@pytest.mark.parametrize("image", [(33, 32), (64, 48)])
def test_a_detector_says_which_cells_lie_on_the_image(image):
    def features(dyhead, sizes):
        model = Bare(backbone=Halved(), neck=Halved(), dyhead=dyhead, num_classes=1)
        return model.apply({}, jnp.zeros((1, 64, 48, 3)), sizes, method="features")["dyhead"]

    class Show(nn.Module):
        def __call__(self, pyramid, valid=None):
            return valid

    class Plain(nn.Module):
        def __call__(self, pyramid):
            return pyramid

    found = features(Show(), jnp.array([image]))
    assert [x.shape for x in found] == [(1, 8, 6), (1, 4, 3)]
    for mask, stride in zip(found, (8, 16), strict=True):
        rows, columns = -(-image[0] // stride), -(-image[1] // stride)
        assert bool(mask[0, :rows, :columns].all())
        assert int(mask.sum()) == rows * columns
    assert features(Show(), None) is None
    assert [x.shape for x in features(Plain(), jnp.array([image]))] == [(1, 8, 6, 3), (1, 4, 3, 3)]


@pytest.mark.parametrize(
    "backbone",
    [ResNetConfig(depth=18, width=4), EfficientNetLiteConfig(), SwinConfig(features=12, depths=(1, 1, 1, 1))],
    ids=["resnet", "lite0", "swin"],
)
def test_there_are_as_many_valid_cells_as_the_map_has_without_padding(backbone):
    model = detectors.build(
        ModelConfig(backbone=backbone, neck=FPNConfig(features=C), dyhead=DyHeadConfig(num_blocks=0))
    )

    def shapes(height, width):
        images = jnp.zeros((1, height, width, 3), jnp.uint8)
        maps = jax.eval_shape(lambda: model.init_with_output(jax.random.key(0), images, method="features")[0]["neck"])
        return [x.shape[1:3] for x in maps]

    for size in ((97, 161), (1, 1)):
        masks = valid_cells(jnp.array([size]), shapes(192, 192), model.strides)
        tight = [(int(mask.any(2).sum()), int(mask.any(1).sum())) for mask in masks]
        assert tight == shapes(*size)
        assert [int(mask.sum()) for mask in masks] == [h * w for h, w in tight]
