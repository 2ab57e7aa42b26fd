"""What a result may depend on: not on the other images of a batch, not on the padding where `valid` is taken."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.contract.subject import Broken, Subject, difference, noise, sizes
from dyhead_jax.dyhead.building import declared
from dyhead_jax.training import steps

ROUNDING = 1e-5  # of float32, relative to the largest value
CANVAS, IMAGE, FAR = (32, 32), (12, 12), (24, 24)  # cells of the finest level; no kernel reaches from FAR to the image


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
    """Where an attention takes `valid`, the result on the image depends neither on what lies in the padding, beyond the
    reach of kernels, nor, in scale and task attention, on the size of the canvas."""
    found = []
    for kind in subject.tested:
        module = subject.attention(kind, coarse_offsets="crop")  # "flat" reads offsets from anywhere on the map
        if not declared(module, valid=True):
            found.append(f"{kind}: `valid` is not taken")
            continue
        off = _in_pyramid(module, subject) if kind in ("spatial", "block") else _in_map(kind, module, subject)
        if not off <= ROUNDING:
            raise Broken(
                f"{kind} takes `valid`, but what lies in the padding changes its result on the image by {off:.2g} of"
                " its largest value: means and norms are to be taken over the valid cells"
            )
        found.append(f"{kind}: that of the image alone")
    return "; ".join(found)


def _in_pyramid(module: Any, subject: Subject) -> float:
    """How far the results on the image move where noise takes the place of zeros in the padding. The canvas stays:
    where a coarser map is upsampled, its corners are aligned with those of the canvas."""
    zeros, noisy, masks = zip(*_canvases(subject, 2), strict=True)
    variables = steps.jit_once(module.init)(jax.random.key(0), list(zeros))
    run = steps.jit_once(module.apply)
    wanted, found = (run(variables, list(maps), list(masks)) for maps in (zeros, noisy))
    images = sizes(2, IMAGE)
    return max(difference(_cut(x, s), _cut(y, s)) for x, y, s in zip(found, wanted, images, strict=True))


def _in_map(kind: str, module: Any, subject: Subject) -> float:
    """The same of one map, with zeros on a smaller canvas; a scale attention gets two candidates."""
    ((zeros, noisy, mask),) = _canvases(subject, 1)
    wrap = (lambda x: [x, x[..., ::-1]]) if kind == "scale" else (lambda x: x)
    variables = steps.jit_once(module.init)(jax.random.key(0), wrap(noisy))
    run = steps.jit_once(module.apply)
    wanted = run(variables, wrap(_cut(zeros, FAR)), _cut(mask, FAR))
    return difference(_cut(run(variables, wrap(noisy), mask), IMAGE), _cut(wanted, IMAGE))


def _canvases(subject: Subject, levels: int) -> list[tuple[jax.Array, jax.Array, jax.Array]]:
    """For each level an image with zeros around it, the same with noise beyond FAR, and which cells are the image."""
    shapes = [(1, *size, subject.features) for size in sizes(levels, CANVAS)]
    found = []
    for x, y, image, far in zip(noise(shapes), noise(shapes, 1), sizes(levels, IMAGE), sizes(levels, FAR), strict=True):
        mask, near = (_inside(x.shape[1:3], size)[None] for size in (image, far))
        zeros = np.where(mask[..., None], x, np.float32(0))
        found.append((jnp.asarray(zeros), jnp.asarray(np.where(near[..., None], zeros, y)), jnp.asarray(mask)))
    return found


def _cut(maps: Any, size: tuple[int, int]) -> Any:
    """The upper left corner of each map of a tree."""
    return jax.tree.map(lambda y: y[:, : size[0], : size[1]], maps)


def _inside(size: tuple[int, int], image: tuple[int, int]) -> np.ndarray:
    """(h, w) bool: the cells of the image in the upper left corner of a canvas."""
    return (np.arange(size[0])[:, None] < image[0]) & (np.arange(size[1])[None] < image[1])
