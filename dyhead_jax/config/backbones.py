"""The backbones: choices for `config.model.backbone`."""

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class ResNetConfig:
    """ResNet and ResNeXt, with deformable convolutions in chosen stages."""

    module: str = "dyhead_jax.backbones.resnet:ResNet"
    depth: int = 50  # 18, 34, 50, 101 or 152
    style: str = "torch"  # stride of a bottleneck: "torch" in its 3x3, "caffe" in its first 1x1
    width: int = 64  # channels of the stem; the stages scale with it
    groups: int = 1  # ResNeXt cardinality, 64 in 64x4d
    group_width: int = 64  # ResNeXt base width, 4 in 64x4d; no effect with groups=1
    norm: str = "eval"  # "frozen": not trained, "eval": fixed statistics, "sync": statistics of the global batch
    frozen_stages: int = 1  # -1: none, 0: the stem, k: the stem and the first k stages
    deform: str = "none"  # "none", "v1" (offsets) or "v2" (offsets and mask)
    deform_stages: tuple[int, ...] = ()  # any of 2, 3, 4, 5, for the maps C2 to C5
    remat: bool = False  # recompute each block in the backward pass


@dataclass(slots=True, kw_only=True)
class EfficientNetLiteConfig:
    """EfficientNet-Lite0, the small backbone that trains on a CPU."""

    module: str = "dyhead_jax.backbones.efficientnet_lite:EfficientNetLite"
    norm: str = "eval"  # as in ResNetConfig
    frozen_stages: int = 2  # -1: none, 0: the stem, k: the stem and the first k of seven stages


@dataclass(slots=True, kw_only=True)
class SwinConfig:
    """Swin Transformer; the defaults are Swin-T."""

    module: str = "dyhead_jax.backbones.swin:Swin"
    features: int = 96  # channels of the first stage
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7
    drop_path: float = 0.2  # of the last block; decreases linearly to 0 at the first
    absolute_position: bool = False  # add a learned table after the patch embedding
    position_size: int = 56  # side of that table in patches: 1/4 of the pretraining image's
    frozen_stages: int = -1  # -1: none, 0: the patch embedding, k: also the first k stages
    remat: bool = False  # recompute each block in the backward pass
