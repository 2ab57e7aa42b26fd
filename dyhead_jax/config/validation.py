"""Checks that types cannot express: `validate` runs after the overrides of a command line and before anything else."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from dyhead_jax.choices import Choice
from dyhead_jax.config import import_path, nodes, ranges, training_choices
from dyhead_jax.config.data import DataConfig
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.evaluation import EvaluationConfig
from dyhead_jax.config.experiment import Config, ModelConfig
from dyhead_jax.config.pyramid import DyHeadConfig
from dyhead_jax.config.serialization import to_json
from dyhead_jax.config.value_types import wrong_type

CHOICES = {
    "model.dtype": training_choices.Dtype,
    "optim.name": training_choices.Optimizer,
    "optim.schedule": training_choices.Schedule,
    "run.parallel": training_choices.ParallelKind,
    "evaluation.merge": training_choices.Merge,
}
IMPLEMENTATIONS = "dyhead_jax.ops.deform_conv:IMPLEMENTATIONS"


def validate(config: Config) -> None:
    """Raises ConfigError, which names the field and its allowed values.

    Checks numbers and choices, that each node fits the class it names, and that the config can be written to
    config.json and read back.
    """
    for name, part in all_parts(config):
        _check_fields(name, part)
    for name, allowed in CHOICES.items():
        _check_choice(f"config.{name}", _value(config, name), allowed)
    _check_data(config.data)
    _check_scales(config.evaluation)
    window = config.run.profile_steps
    if window and window[0] > window[1]:
        raise ConfigError(f"config.run.profile_steps is {window!r}; it must be () or 0 < first <= last")
    if config.data.batch_size % config.optim.accumulate:
        raise ConfigError(
            f"config.data.batch_size {config.data.batch_size} is not a multiple of config.optim.accumulate"
            f" {config.optim.accumulate}"
        )
    for name, node in all_nodes(config):
        _check_node(name, node)
    _check_levels(config.model)
    to_json(config)


def validate_stored(config: Config, where: str) -> None:
    """Raises ConfigError, which begins with `where`, unless a model of a stored config can be built and tested.

    What training alone uses is not checked: a run of an earlier version may have other values there.
    """
    try:
        for name, part in (*all_parts(config.model, "config.model"), ("config.evaluation", config.evaluation)):
            _check_fields(name, part)
        _check_fields("config.data", config.data, ("canvases", "short_side", "long_side", "eval_batch_size"))
        for name, allowed in CHOICES.items():
            if name.startswith(("model.", "evaluation.")):
                _check_choice(f"config.{name}", _value(config, name), allowed)
        _check_scales(config.evaluation)
        for name, node in all_nodes(config.model, "config.model"):
            _check_node(name, node)
        _check_levels(config.model)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def all_parts(value: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """All dataclasses of a config, with their names."""
    if dataclasses.is_dataclass(value):
        yield name, value
        for field in dataclasses.fields(value):
            yield from all_parts(getattr(value, field.name), f"{name}.{field.name}")


def all_nodes(value: Any, name: str = "config") -> Iterator[tuple[str, Any]]:
    """All nodes of a config, with their names."""
    return ((name, part) for name, part in all_parts(value, name) if nodes.is_node(part))


def _value(config: Config, name: str) -> Any:
    value: Any = config
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _check_fields(name: str, part: Any, only: Sequence[str] = ()) -> None:
    """Checks the type of every field, and the range of those that have one. only: the range of these alone."""
    if wrong := wrong_type(part):
        raise ConfigError(f"{name}.{wrong}")
    for field, rule in ranges.rules_of(part).items():
        value = getattr(part, field)
        if only and field not in only:
            continue
        if not rule.allows(value):
            raise ConfigError(f"{name}.{field} is {value!r}; it must be {rule}")
    implementation = getattr(part, "implementation", None)
    if ranges.rules_of(part) and implementation is not None:
        allowed = ("auto", *import_path.load(IMPLEMENTATIONS))
        if implementation not in allowed:
            raise ConfigError(f"{name}.implementation is {implementation!r}; it may be {', '.join(allowed)}")


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
    if list(limits) != sorted(limits):
        raise ConfigError(f"config.model.head.level_limits is {limits!r}; they must rise")


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
        if name not in ("dtype", "axis_name", "features")
        and getattr(dyhead, name) != getattr(DyHeadConfig(), name)
        and not any(name in parameters for parameters in takes)
    ]


def _check_data(data: DataConfig) -> None:
    low, high = data.scale_jitter
    if low > high:
        raise ConfigError(f"config.data.scale_jitter is {data.scale_jitter!r}; it must be 0 < low <= high")


def _check_scales(evaluation: EvaluationConfig) -> None:
    scales = max(1, len(evaluation.short_sides))
    for name, values in (("long_sides", evaluation.long_sides), ("size_ranges", evaluation.size_ranges)):
        if values and len(values) != scales:
            raise ConfigError(f"config.evaluation.{name} has {len(values)} values for {scales} scales")
    for low, high in evaluation.size_ranges:
        if low >= high:
            raise ConfigError(f"config.evaluation.size_ranges has {(low, high)!r}; a range is low < high")
