"""What types cannot check: `validate` runs after the overrides of a command line."""

from dyhead_jax.config import import_path
from dyhead_jax.config.backbones import ResNetConfig
from dyhead_jax.config.detectors import ATSSConfig, FasterRCNNConfig, FCOSConfig
from dyhead_jax.config.evaluation import EvaluationConfig
from dyhead_jax.config.experiment import Config
from dyhead_jax.config.pyramid import FPNConfig


class ConfigError(ValueError):
    """A value that no run can use; the message names the field."""


def validate(config: Config) -> None:
    """Checks what types cannot; raises ConfigError with the field's name and what it may be."""
    model, data, optim, run = config.model, config.data, config.optim, config.run
    choices = [
        ("model.dtype", model.dtype, ("float32", "bfloat16")),
        ("model.dyhead.coarse_offsets", model.dyhead.coarse_offsets, ("flat", "crop", "resize", "upsample_first")),
        ("model.dyhead.lineage", model.dyhead.lineage, ("official", "mmdet", "mmdet_simple")),
        ("optim.name", optim.name, ("sgd", "adamw")),
        ("optim.schedule", optim.schedule, ("step", "cosine", "constant")),
        ("run.parallel", run.parallel, ("pmap", "jit", "single")),
        ("evaluation.merge", config.evaluation.merge, ("nms", "vote")),
    ]
    if isinstance(model.backbone, ResNetConfig):
        choices += [
            ("model.backbone.depth", model.backbone.depth, (18, 34, 50, 101, 152)),
            ("model.backbone.style", model.backbone.style, ("torch", "caffe")),
            ("model.backbone.norm", model.backbone.norm, ("frozen", "eval", "sync")),
            ("model.backbone.deform", model.backbone.deform, ("none", "v1", "v2")),
        ]
    if isinstance(model.head, ATSSConfig):
        choices += [
            ("model.head.giou_eps", model.head.giou_eps, ("added", "floor")),
            ("model.head.delta_clamp", model.head.delta_clamp, ("upper", "both")),
            ("model.head.rank_by", model.head.rank_by, ("product", "class")),
            ("model.head.clip_boxes", model.head.clip_boxes, ("after", "before")),
        ]
    if isinstance(model.head, FCOSConfig):
        choices += [
            ("model.head.distance", model.head.distance, ("exp", "relu")),
            ("model.head.centerness_on", model.head.centerness_on, ("class", "box")),
            ("model.head.box_loss", model.head.box_loss, ("iou", "giou")),
        ]
        if isinstance(model.neck, FPNConfig) and len(model.head.level_limits) != model.neck.levels - 1:
            raise ConfigError(
                f"config.model.head.level_limits has {len(model.head.level_limits)} values;"
                f" config.model.neck.levels {model.neck.levels} needs {model.neck.levels - 1}"
            )
    if isinstance(model.head, FasterRCNNConfig):
        choices.append(("model.head.delta_clamp", model.head.delta_clamp, ("upper", "both")))
    if isinstance(model.neck, FPNConfig):
        choices.append(("model.neck.extra", model.neck.extra, ("p5", "c5", "pool")))
    for name, value, allowed in choices:
        if value not in allowed:
            raise ConfigError(f"config.{name} is {value!r}; it may be {', '.join(map(repr, allowed))}")
    positive = [
        ("model.num_classes", model.num_classes),
        ("model.dyhead.norm_scale", model.dyhead.norm_scale),
        ("data.batch_size", data.batch_size),
        ("data.eval_batch_size", data.eval_batch_size),
        ("data.max_boxes", data.max_boxes),
        ("data.long_side", data.long_side),
        ("optim.learning_rate", optim.learning_rate),
        ("optim.accumulate", optim.accumulate),
        ("run.steps", run.steps),
        ("run.log_every", run.log_every),
        ("run.checkpoint_every", run.checkpoint_every),
        ("run.max_to_keep", run.max_to_keep),
        ("run.shard_state", run.shard_state),
        ("evaluation.max_detections", config.evaluation.max_detections),
    ]
    for name, value in positive:
        if not value > 0:
            raise ConfigError(f"config.{name} is {value!r}; it must be above 0")
    if not data.canvases:
        raise ConfigError("config.data.canvases is empty; give at least one (height, width)")
    for canvas in data.canvases:
        if len(canvas) != 2 or min(canvas) <= 0:
            raise ConfigError(f"config.data.canvases has {canvas!r}; a canvas is (height, width)")
    _check_scales(config.evaluation)
    low, high = data.scale_jitter
    if not 0 < low <= high:
        raise ConfigError(f"config.data.scale_jitter is {data.scale_jitter!r}; it must be 0 < low <= high")
    if not 0 <= optim.ema < 1:
        raise ConfigError(f"config.optim.ema is {optim.ema!r}; it must be at least 0 and below 1")
    if optim.base_batch_size < 0:
        raise ConfigError(f"config.optim.base_batch_size is {optim.base_batch_size}; it must be at least 0")
    window = run.profile_steps
    if window and (len(window) != 2 or not 0 < window[0] <= window[1]):
        raise ConfigError(f"config.run.profile_steps is {window!r}; it must be () or 0 < first <= last")
    if data.batch_size % optim.accumulate:
        raise ConfigError(
            f"config.data.batch_size {data.batch_size} is not a multiple of config.optim.accumulate {optim.accumulate}"
        )
    for name in ("block", "spatial", "scale", "task"):
        path = getattr(model.dyhead, name)
        if path != "none":
            _load(f"model.dyhead.{name}", path)
    if isinstance(model.head, FasterRCNNConfig) and model.head.task != "none":
        _load("model.head.task", model.head.task)
    for name, node in (("backbone", model.backbone), ("neck", model.neck), ("head", model.head)):
        _load(f"model.{name}.module", node.module)
    _load("data.source.module", data.source.module)


def _check_scales(evaluation: EvaluationConfig) -> None:
    scales = max(1, len(evaluation.short_sides))
    for side in (*evaluation.short_sides, *evaluation.long_sides):
        if not side > 0:
            raise ConfigError(f"config.evaluation has a side of {side!r} pixels; it must be above 0")
    for name, values in (("long_sides", evaluation.long_sides), ("size_ranges", evaluation.size_ranges)):
        if values and len(values) != scales:
            raise ConfigError(f"config.evaluation.{name} has {len(values)} values for {scales} scales")
    for limits in evaluation.size_ranges:
        if len(limits) != 2 or not 0 <= limits[0] < limits[1]:
            raise ConfigError(f"config.evaluation.size_ranges has {limits!r}; a range is (low, high)")
    if not 0 < evaluation.merge_threshold <= 1:
        raise ConfigError(f"config.evaluation.merge_threshold is {evaluation.merge_threshold!r}; an IoU is from 0 to 1")


def _load(name: str, path: str) -> None:
    try:
        import_path.load(path)
    except import_path.SymbolError as error:
        raise ConfigError(f"config.{name}: {error}") from error
