"""Whether every detector works with what is tested: losses of a training step, and detection. Traced only."""

import dataclasses

import jax
import jax.numpy as jnp

from dyhead_jax import detectors
from dyhead_jax.command import one_line
from dyhead_jax.contract.subject import Broken, Subject
from dyhead_jax.contract.tiny_model import CANVAS, HEADS
from dyhead_jax.types import GroundTruth


def in_detectors(subject: Subject) -> str:
    """All six detectors train and detect."""
    for name, head in HEADS.items():
        dyhead = dataclasses.replace(subject.config.model.dyhead, num_blocks=1)
        model = detectors.build(dataclasses.replace(subject.config.model, dyhead=dyhead, head=head))
        try:
            losses, _ = jax.eval_shape(lambda model=model: _use(model))
        except Exception as error:  # whatever a module raises
            raise Broken(f"{name} does not work with it: {one_line(error)}") from error
        for term, value in losses.items():
            if value.shape != ():
                raise Broken(f"{name}: {term} is {value.dtype}{list(value.shape)}, not a number")
    return ", ".join(HEADS)


def _use(model):
    images = jnp.zeros((2, *CANVAS, 3), jnp.uint8)
    boxes = jnp.asarray([[[8.0, 8.0, 40.0, 40.0]]] * 2)
    mask = jnp.ones((2, 1), bool)
    sizes = jnp.asarray([CANVAS] * 2, jnp.int32)
    truth = GroundTruth(boxes=boxes, labels=jnp.zeros((2, 1), jnp.int32), mask=mask, crowd=~mask, sizes=sizes)
    found, variables = model.init_with_output(jax.random.key(0), images, sizes, method="detect")
    key = jax.random.key(1)
    losses, _ = model.apply(
        variables,
        images,
        truth,
        train=True,
        method="losses",
        mutable=["batch_stats"],
        rngs={"dropout": key, "sampling": key},
    )
    return losses, found
