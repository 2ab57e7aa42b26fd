"""What a result may depend on: not on the other images of a batch, not on the padding where `valid` is taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.contract.subject import Broken, Subject, difference, noise, sizes
from dyhead_jax.dyhead.building import declared
from dyhead_jax.training import steps

ROUNDING = 1e-5  # of float32, relative to the largest value
CANVAS, IMAGE, FAR = (32, 32), (12, 12), 24  # cells of the finest of two levels; beyond FAR no kernel reaches the image


def batch(subject: Subject) -> str:
    """The result of an image depends neither on the other images of its batch nor on its place among them."""
    variables, pyramid, others = subject.moved(), subject.pyramid(), subject.pyramid(seed=1)
    wanted, _ = subject.run(variables, pyramid)
    changed, _ = subject.run(variables, [jnp.concatenate([x[:1], y[1:]]) for x, y in zip(pyramid, others, strict=True)])
    swapped, _ = subject.run(variables, [x[::-1] for x in pyramid])
    first = jax.tree.map(lambda x: x[:1], wanted)
    for what, found in (
        ("another image beside it changes", jax.tree.map(lambda x: x[:1], changed)),
        ("another place in the batch changes", jax.tree.map(lambda x: x[1:], swapped)),
    ):
        off = difference(found, first)
        if not off <= ROUNDING:
            raise Broken(f"an image's result is its own, but {what} it by {off:.2g} of its largest value")
    return "another image beside it, or another place in the batch, changes nothing"


def padding(subject: Subject) -> str:
    """Where an attention takes `valid`, the result on the image does not depend on what lies in the padding."""
    found = []
    for kind in subject.tested:
        module = subject.attention(kind, coarse_offsets="crop")  # "flat" reads offsets from anywhere on the map
        if not declared(module, valid=True):
            found.append(f"{kind}: `valid` is not taken")
            continue
        off = _on_maps(kind, module, subject) if kind in ("scale", "task") else _on_pyramid(module, subject)
        if not off <= ROUNDING:
            raise Broken(
                f"{kind} takes `valid`, but what lies in the padding changes its result on the image by {off:.2g} of"
                " its largest value: means and norms are to be taken over the valid cells"
            )
        found.append(f"{kind}: that of the image alone")
    return "; ".join(found)


def _on_pyramid(module: Any, subject: Subject) -> float:
    """Zeros around the image, against noise where no kernel reaches; two levels. (Not against the image without
    padding: a coarser map that is upsampled has its corners aligned with those of the canvas.)"""
    shapes = [(1, *size, subject.features) for size in sizes(2, CANVAS)]
    images, masks, maps = sizes(2, IMAGE), [], []
    far = sizes(2, (FAR, FAR))
    for x, y, image, limit in zip(noise(shapes), noise(shapes, 1), images, far, strict=True):
        mask = _inside(x.shape[1:3], image)
        plain = np.where(mask[None, :, :, None], x, 0.0).astype(np.float32)
        maps.append((plain, np.where(_inside(x.shape[1:3], limit)[None, :, :, None], plain, y)))
        masks.append(jnp.asarray(mask[None]))
    one, other = ([jnp.asarray(pair[i]) for pair in maps] for i in range(2))
    variables = steps.jit_once(module.init)(jax.random.key(0), one)
    run = steps.jit_once(lambda pyramid: module.apply(variables, pyramid, masks))
    wanted, found = ([_cut(y, size) for y, size in zip(run(x), images, strict=True)] for x in (one, other))
    return difference(found, wanted)


def _on_maps(kind: str, module: Any, subject: Subject) -> float:
    """A map of noise with the image in its corner, against the image alone; for a scale attention two such maps."""
    (x,), (h, w) = noise([(2, 9, 8, subject.features)]), (5, 6)
    wrap = (lambda x: [x, x[..., ::-1]]) if kind == "scale" else (lambda x: x)
    mask = jnp.asarray(np.stack([_inside((9, 8), (h, w)), np.ones((9, 8), bool)]))
    variables = steps.jit_once(module.init)(jax.random.key(0), wrap(x))
    wanted = steps.jit_once(module.apply)(variables, wrap(x[:1, :h, :w]))
    found = steps.jit_once(module.apply)(variables, wrap(x), mask)
    return difference(_cut(jax.tree.map(lambda y: y[:1], found), (h, w)), wanted)


def _cut(maps: Any, size: tuple[int, int]) -> Any:
    """The upper left corner of each map of a tree."""
    return jax.tree.map(lambda y: y[:, : size[0], : size[1]], maps)


def _inside(size: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the cells of the image in the upper left corner of a canvas."""
    return (np.arange(size[0])[:, None] < image[0]) & (np.arange(size[1])[None] < image[1])
