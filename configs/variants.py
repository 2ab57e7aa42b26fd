"""Variants of DyHead on drawn shapes: `shapes_grid.py:atss` with one part replaced, 300 steps, a few minutes each.

    python train.py --config=configs/variants.py:dyhead --workdir=runs/dyhead          # two blocks as released
    python train.py --config=configs/variants.py:none --workdir=runs/none              # all three attentions off
    python train.py --config=configs/variants.py:paper --workdir=runs/paper            # block: the paper's own formula
    python train.py --config=configs/variants.py:dcnv3 --workdir=runs/dcnv3            # spatial: DCNv3
    python train.py --config=configs/variants.py:dcnv4 --workdir=runs/dcnv4            # spatial: DCNv4
    python train.py --config=configs/variants.py:msdeform --workdir=runs/msdeform      # spatial: as Deformable DETR
    python train.py --config=configs/variants.py:pconv --workdir=runs/pconv            # spatial: pyramid convolution
    python train.py --config=configs/variants.py:sk --workdir=runs/sk                  # scale: selective kernel
    python train.py --config=configs/variants.py:branches --workdir=runs/branches      # task: a gate a branch
    python train.py --config=configs/variants.py:decompose --workdir=runs/decompose    # task: TOOD's layer attention
    python train.py --config=configs/variants.py:tood --workdir=runs/tood              # head: TOOD's, on ATSS

What each is, and its cost: docs/variants.md. The initial GroupNorm scales make features after a block about equally
large in every experiment, as in `shapes_grid.py`.
"""

from typing import Any

from dyhead_jax.config import Config, recipes
from dyhead_jax.config.flags import load_file

VARIANTS: dict[str, dict[str, Any]] = {  # fields of config.model.dyhead
    "dyhead": {},
    "none": {},
    # the norm comes after the scale attention
    "paper": {"block": "dyhead_jax.variants.paper_block:PaperBlock", "norm_scale": 1.0},
    "dcnv3": {"spatial": "dyhead_jax.variants.dcn_v4:DCNv3"},
    "dcnv4": {"spatial": "dyhead_jax.variants.dcn_v4:DCNv4"},
    # one candidate, not three, halved by the scale attention
    "msdeform": {"spatial": "dyhead_jax.variants.ms_deform:MultiScaleDeformable", "norm_scale": 2.0},
    "pconv": {"spatial": "dyhead_jax.variants.pyramid_conv:PyramidConv", "norm_scale": 2.0},
    # weights that sum to 1
    "sk": {"scale": "dyhead_jax.variants.selective_kernel:SelectiveKernel", "norm_scale": 3**0.5},
    "branches": {"task": "dyhead_jax.variants.branch_gates:BranchGates"},
    "decompose": {"task": {"module": "dyhead_jax.variants.task_decomposition:TaskDecomposition", "layers": 2}},
    "tood": {},
}


def get_config(variant: str = "dyhead") -> Config:
    """variant: a key of VARIANTS. Raises ConfigError for others."""
    recipes.chosen(variant, list(VARIANTS))
    config = load_file("shapes_grid:atss,none" if variant == "none" else "shapes_grid:atss")
    for field, value in VARIANTS[variant].items():
        setattr(config.model.dyhead, field, value)
    if variant == "tood":
        config.model.head = "dyhead_jax.detectors.tood:TOOD"
        config.model.head.norm_groups = 16
    if variant == "pconv":
        config.optim.offset_rate = 1.0  # nothing is sampled
    config.run.steps = 300
    config.run.checkpoint_every = 150
    return config
