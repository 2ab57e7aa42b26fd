"""Small detectors, as they come from a trained model's folder."""

from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax.config import Config, DataConfig
from dyhead_jax.detectors.atss import ATSS
from dyhead_jax.dyhead import DyHead
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.training.steps import init_variables
from tests.detectors import tiny

ATSS_OPTIONS = {"towers": 1, "norm_groups": 4}
TALL = (tiny.CANVAS[1], tiny.CANVAS[0])
DATA = DataConfig(canvases=(tiny.CANVAS, TALL), short_side=(min(tiny.CANVAS),), long_side=max(tiny.CANVAS))


def loaded(detector: Any = ATSS, options: dict | None = None, *, trained: bool = True, **dyhead: Any) -> InferenceModel:
    """trained: False leaves all variables zero, which compiles less. dyhead: fields of DyHead, beside two blocks with
    the features of `tiny`."""
    model = tiny.make(detector, **(ATSS_OPTIONS if options is None else options))
    fields = {"num_blocks": 2, "features": tiny.FEATURES, "norm_groups": 4} | dyhead
    model = model.clone(dyhead=DyHead(**fields))
    shapes = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), tiny.CANVAS))
    return InferenceModel(
        config=Config(data=DATA),
        model=model,
        variables=tiny.init(model) if trained else jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes),
        class_names=("cat", "<b>dog</b>", "bird"),
        category_ids=(1, 2, 3),
        step=7,
    )
