"""Between backbone and predictors: `config.model.neck` and `config.model.dyhead`."""

from dataclasses import dataclass
from typing import Any, ClassVar

from dyhead_jax.config.nodes import Parent


@dataclass(slots=True, kw_only=True)
class FPNConfig:
    """Feature pyramid: 1x1 laterals, nearest upsampling, 3x3 outputs, extra coarse levels."""

    module: str = "dyhead_jax.necks.fpn:FPN"
    features: int = 256
    start: int = 1  # first backbone map to use: 0 is C2 (stride 4), 1 is C3 (stride 8)
    levels: int = 5  # of the pyramid, including extra ones
    extra: str = "p5"  # input of the extra levels: "p5", "c5" (stride-2 convs) or "pool" (max pool of the last)
    relu_before_extra: bool = False  # ReLU on P6 before the conv to P7


@dataclass(slots=True, kw_only=True)
class DyHeadConfig(Parent):
    """The stack of blocks between neck and predictors.

    block, spatial, scale, task: an import path, which becomes a node with the options of the class it names. The fields
    from `features` on are passed to all of them (`dyhead.head.HANDED_DOWN`).
    """

    NODES: ClassVar = dict.fromkeys(("block", "spatial", "scale", "task"), "dyhead_jax.dyhead.head:HANDED_DOWN")

    module: str = "dyhead_jax.dyhead.head:DyHead"
    num_blocks: int = 6  # 0: no DyHead
    block: Any = "dyhead_jax.dyhead.head:DyHeadBlock"
    spatial: Any = "dyhead_jax.dyhead.spatial:SpatialAttention"  # "none": plain 3x3 convolutions
    scale: Any = "dyhead_jax.dyhead.scale:ScaleAttention"  # "none": plain mean
    task: Any = "dyhead_jax.dyhead.task:TaskAttention"  # "none": ReLU
    remat: bool = False  # recompute each block in the backward pass
    valid_area: bool = False  # compute means and norms without the padding; the references include it
    scan: bool = False  # compile one block and scan it; needs neck features == dyhead features; slow on a CPU
    features: int = 256
    coarse_offsets: str = "flat"  # "flat" (behind every published AP), "crop", "resize", "upsample_first"
    norm_groups: int = 16
    norm_scale: float = 1.0  # initial scale of the GroupNorms; 2 sqrt(3) for short trainings, see DyHead
    neighbour_scale: float = 1.0  # the same of the neighbouring levels' maps, a factor; see DyHead
    dcn_bias: bool = True  # bias of the deformable convolutions: official yes, mmdetection no
    lineage: str = "official"  # initial weights: "official", "mmdet" or "mmdet_simple" (zero offset convolution)
    implementation: str = "auto"  # of deform_conv
