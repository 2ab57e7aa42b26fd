"""Checks that types cannot express: `validate` runs after the overrides of a command line and before anything else."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from dyhead_jax.choices import Choice
from dyhead_jax.config import import_path, nodes, training_choices
from dyhead_jax.config.data import DataConfig
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.evaluation import EvaluationConfig
from dyhead_jax.config.experiment import Config, ModelConfig
from dyhead_jax.config.pyramid import DyHeadConfig
from dyhead_jax.config.serialization import to_json

CHOICES = {
    "model.dtype": training_choices.Dtype,
    "optim.name": training_choices.Optimizer,
    "optim.schedule": training_choices.Schedule,
    "run.parallel": training_choices.ParallelKind,
    "evaluation.merge": training_choices.Merge,
}
ABOVE_ZERO = (
    "model.num_classes", "model.pad_divisor", "data.batch_size", "data.eval_batch_size", "data.max_boxes",
    "data.long_side", "optim.learning_rate", "optim.accumulate", "run.steps", "run.log_every", "run.checkpoint_every",
    "run.max_to_keep", "run.shard_state", "evaluation.max_detections",
)  # fmt: skip
NOT_NEGATIVE = (
    "seed", "data.min_box_side", "data.color_jitter", "data.blur", "data.noise", "data.workers",
    "optim.base_batch_size", "optim.backbone_rate", "optim.offset_rate", "optim.bias_rate", "optim.weight_decay",
    "optim.warmup_steps", "optim.warmup_start", "optim.clip_norm", "run.eval_every", "run.figure_images",
)  # fmt: skip
FRACTIONS = (
    "data.flip", "data.random_crop", "data.mosaic", "data.copy_boxes", "data.mixup", "data.repeat_factor",
    "optim.momentum",
)  # from 0 to 1  # fmt: skip


def validate(config: Config) -> None:
    """Raises ConfigError, which names the field and its allowed values.

    Checks numbers and choices, that each node fits the class it names, and that the config can be written to
    config.json and read back.
    """
    for name, allowed in CHOICES.items():
        _check_choice(f"config.{name}", _value(config, name), allowed)
    for name in ABOVE_ZERO:
        if not _value(config, name) > 0:
            raise ConfigError(f"config.{name} is {_value(config, name)!r}; it must be above 0")
    for name in NOT_NEGATIVE:
        if not _value(config, name) >= 0:
            raise ConfigError(f"config.{name} is {_value(config, name)!r}; it must be at least 0")
    for name in FRACTIONS:
        if not 0 <= _value(config, name) <= 1:
            raise ConfigError(f"config.{name} is {_value(config, name)!r}; it must be from 0 to 1")
    _check_data(config.data)
    _check_scales(config.evaluation)
    optim, run = config.optim, config.run
    if not 0 <= optim.ema < 1:
        raise ConfigError(f"config.optim.ema is {optim.ema!r}; it must be at least 0 and below 1")
    window = run.profile_steps
    if window and (len(window) != 2 or not 0 < window[0] <= window[1]):
        raise ConfigError(f"config.run.profile_steps is {window!r}; it must be () or 0 < first <= last")
    if config.data.batch_size % optim.accumulate:
        raise ConfigError(
            f"config.data.batch_size {config.data.batch_size} is not a multiple of config.optim.accumulate"
            f" {optim.accumulate}"
        )
    for name, node in all_nodes(config):
        _check_node(name, node)
    _check_levels(config.model)
    if isinstance(config.model.dyhead, DyHeadConfig) and not config.model.dyhead.norm_scale > 0:
        raise ConfigError(f"config.model.dyhead.norm_scale is {config.model.dyhead.norm_scale!r}; it must be above 0")
    to_json(config)


def all_nodes(value: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """All nodes of a config, with their names."""
    if nodes.is_node(value):
        yield name, value
    if dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from all_nodes(getattr(value, field.name), f"{name}.{field.name}")


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _check_node(name: str, node: Any) -> None:
    """Checks that a node's class takes its options, and that options typed as a `Choice` have an allowed value."""
    if node.module == nodes.OFF:
        return
    try:
        options, target = nodes.options_of(node), import_path.load(node.module)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
    hints = import_path.hints(target)
    for option, value in options.items():
        if option in hints and isinstance(hints[option], type) and issubclass(hints[option], Choice):
            _check_choice(f"{name}.{option}", value, hints[option])


def _check_choice(name: str, value: Any, choices: type[Choice]) -> None:
    try:
        choices.parse(name, value)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_levels(model: ModelConfig) -> None:
    if not (hasattr(model.head, "level_limits") and hasattr(model.neck, "levels")):
        return  # another head or neck
    limits, levels = model.head.level_limits, model.neck.levels
    if len(limits) != levels - 1:
        raise ConfigError(
            f"config.model.head.level_limits has {len(limits)} values; config.model.neck.levels {levels} needs"
            f" {levels - 1}"
        )


def unused(dyhead: Any) -> list[str]:
    """A line for each field that is set for the attentions although none of them declares it."""
    if not isinstance(dyhead, DyHeadConfig) or not dyhead.num_blocks or dyhead.block != DyHeadConfig().block:
        return []  # another block may use them in its own way
    attentions = {name: getattr(dyhead, name) for name in ("spatial", "scale", "task")}
    if attentions["spatial"].module == nodes.OFF:
        return []  # the plain convolutions in its place take some of them
    takes = [import_path.parameters(target) for node in attentions.values() if (target := nodes.target_of(node))]
    return [
        f"config.model.dyhead.{name}={getattr(dyhead, name)} has no effect: no attention has such a field"
        for name in nodes.handed_down(DyHeadConfig, "spatial")
        if name not in ("dtype", "features")
        and getattr(dyhead, name) != getattr(DyHeadConfig(), name)
        and not any(name in parameters for parameters in takes)
    ]


def _check_data(data: DataConfig) -> None:
    if not data.canvases:
        raise ConfigError("config.data.canvases is empty; give at least one (height, width)")
    for canvas in data.canvases:
        if len(canvas) != 2 or min(canvas) <= 0:
            raise ConfigError(f"config.data.canvases has {canvas!r}; a canvas is (height, width)")
    if not data.short_side or min(data.short_side) <= 0:
        raise ConfigError(f"config.data.short_side is {data.short_side!r}; give one or more sides above 0")
    low, high = data.scale_jitter
    if not 0 < low <= high:
        raise ConfigError(f"config.data.scale_jitter is {data.scale_jitter!r}; it must be 0 < low <= high")


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
