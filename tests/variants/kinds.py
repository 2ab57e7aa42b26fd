"""All variants, small, as fields of `DyHead`, and inputs for them."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax.dyhead import DyHead
from dyhead_jax.variants.branch_gates import BranchGates
from dyhead_jax.variants.dcn_v4 import DCNv3, DCNv4
from dyhead_jax.variants.ms_deform import MultiScaleDeformable
from dyhead_jax.variants.paper_block import PaperBlock
from dyhead_jax.variants.pyramid_conv import PyramidConv
from dyhead_jax.variants.selective_kernel import SelectiveKernel
from dyhead_jax.variants.task_decomposition import TaskDecomposition

C = 8
PLAIN = {"spatial": "none", "scale": "none", "task": "none"}  # traces fast
KINDS = {
    "paper": {"block": partial(PaperBlock, reduction=1)},  # of a few hidden units one image may switch off all
    "dcnv3": PLAIN | {"spatial": partial(DCNv3, group_features=4)},
    "dcnv4": PLAIN | {"spatial": partial(DCNv4, group_features=4)},
    "msdeform": PLAIN | {"spatial": partial(MultiScaleDeformable, heads=2, points=2)},
    "pconv": PLAIN | {"spatial": PyramidConv},
    "sk": PLAIN | {"scale": SelectiveKernel},
    "sk_sigmoid": PLAIN | {"scale": partial(SelectiveKernel, gate="sigmoid")},
    "branches": PLAIN | {"task": BranchGates},
    "decompose": PLAIN | {"task": partial(TaskDecomposition, layers=2)},
}


def head(kind, **options):
    return DyHead(**{"num_blocks": 1, "features": C, "norm_groups": 2} | KINDS[kind] | options)


def pyramid(levels, batch=2, size=(9, 13), seed=0, c=C):
    """Noise on maps whose sides are half of those before, rounded up."""
    draw, maps = np.random.default_rng(seed), []
    for _ in range(levels):
        maps.append(jnp.asarray(draw.normal(size=(batch, *size, c)), jnp.float32))
        size = tuple((n + 1) // 2 for n in size)
    return maps


def drawn(module, *inputs, deviation=0.3):
    """Variables of a module, all drawn, so that none sits at a special place."""
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *inputs)
    return jax.tree.map(lambda x: draw.normal(0, deviation, x.shape).astype(x.dtype), shapes)
