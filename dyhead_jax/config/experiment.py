"""The whole experiment: `config` with `config.model`, `config.optim` and `config.run`."""

from dataclasses import dataclass, field
from typing import Any, ClassVar

from dyhead_jax.config.backbones import ResNetConfig
from dyhead_jax.config.data import DataConfig
from dyhead_jax.config.detectors import ATSSConfig
from dyhead_jax.config.evaluation import EvaluationConfig
from dyhead_jax.config.nodes import Parent
from dyhead_jax.config.pyramid import DyHeadConfig, FPNConfig


@dataclass(slots=True, kw_only=True)
class ModelConfig(Parent):
    NODES: ClassVar = {
        "backbone": ("dtype", "axis_name"),
        "neck": ("dtype", "axis_name"),
        "dyhead": ("dtype", "axis_name"),
        "head": (
            "backbone", "neck", "dyhead", "num_classes", "pixel_mean", "pixel_std", "bgr", "pad_divisor", "dtype",
            "axis_name",
        ),
    }  # fmt: skip

    num_classes: int = 80
    dtype: str = "float32"  # or "bfloat16"; coordinates, norms, pooled statistics and losses stay float32
    pixel_mean: tuple[float, ...] = (123.675, 116.28, 103.53)  # in RGB order, whatever `bgr` says
    pixel_std: tuple[float, ...] = (58.395, 57.12, 57.375)
    bgr: bool = False  # the backbone takes BGR images (caffe weights)
    pad_divisor: int = 32  # an image's own padding: to multiples of this; see head.train_in_padding
    pretrained: str = ""  # backbone weights: a file (see weights/layouts.py), or "efficientnet-lite0" (extra lite0)
    init: str = ""  # a workdir, exported folder or file of weights, of which all that fits is taken to start from
    backbone: Any = field(default_factory=ResNetConfig)
    neck: Any = field(default_factory=FPNConfig)
    dyhead: Any = field(default_factory=DyHeadConfig)
    head: Any = field(default_factory=ATSSConfig)


@dataclass(slots=True, kw_only=True)
class OptimConfig:
    name: str = "sgd"  # "sgd" or "adamw"
    learning_rate: float = 0.01
    base_batch_size: int = 0  # batch size of learning_rate, which is scaled linearly to data.batch_size; 0: not scaled
    backbone_rate: float = 1.0  # multiplies the learning rate of the backbone
    offset_rate: float = 1.0  # the same for convolutions that predict sampling offsets (Deformable DETR: 0.1)
    bias_rate: float = 1.0  # the same for biases, except those of norms (FCOS: 2)
    momentum: float = 0.9  # SGD
    weight_decay: float = 1e-4
    decay_norms: bool = True  # decay norm scales and biases too, as both references do with SGD
    decay_biases: bool = True
    decay_positions: bool = True  # decay Swin's tables of absolute and relative positions too
    schedule: str = "step"  # "step", "cosine" or "constant"
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)  # for "step": fractions of all steps; x0.1 at each
    warmup_steps: int = 500
    warmup_start: float = 0.001  # fraction of the learning rate at step 0
    clip_norm: float = 0.0  # maximum norm of the whole gradient; 0 is off
    ema: float = 0.0  # decay of the weight average that is used for evaluation; 0 is off
    accumulate: int = 1  # micro-batches per step


@dataclass(slots=True, kw_only=True)
class RunConfig:
    steps: int = 90_000
    eval_every: int = 7_500  # in steps; 0: only at the end
    checkpoint_every: int = 2_500  # in steps
    max_to_keep: int = 3  # number of latest checkpoints; the best is kept too
    log_every: int = 50  # in steps
    parallel: str = "pmap"  # "pmap", "jit" (over a mesh) or "single"
    shard_state: int = 1  # with "jit": number of devices that share one copy of the training state; 1: no sharding
    tensorboard: bool = False  # write event files too; needs the extra `tensorboard`
    wandb: bool = False  # log to Weights & Biases too (WANDB_MODE=offline: to files); needs the extra `wandb`
    mlflow: bool = False  # log to MLflow too: to MLFLOW_TRACKING_URI, or <workdir>/mlflow.db; needs the extra `mlflow`
    figure_images: int = 9  # held-out images drawn after each evaluation
    compilation_cache: str = ""  # folder; "" is <workdir>/.cache, "off" disables it
    profile_steps: tuple[int, ...] = ()  # (first, last) to trace into <workdir>/profile for xprof; () is none
    debug_nans: bool = False  # JAX's jax_debug_nans: stop at the operation that makes a NaN; slow


@dataclass(slots=True, kw_only=True)
class Config:
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
