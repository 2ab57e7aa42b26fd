"""What a run prints before its first step."""

import math
from typing import Any

import jax
from flax.traverse_util import flatten_dict

from dyhead_jax.config import Config, ConfigError, nodes, unused
from dyhead_jax.training import optim, parallel
from dyhead_jax.training.parameters import Parameters

MISSING = {
    "backbone_rate": "no parameter of the backbone is trained",
    "offset_rate": "name the layers that say where to sample in `offset_parameters` of their module",
    "bias_rate": "no trained parameter is named bias",
}


def describe(parameters: Parameters, devices: parallel.Parallel, config: Config, begun: bool = False) -> None:
    """Prints the number of parameters, the reach of each learning-rate multiplier, and the batch size per device.

    Raises ConfigError for a multiplier other than 1 that reaches nothing, unless the config switches its part off; a
    run that has begun with one goes on.
    """
    leaves: dict[Any, Any] = flatten_dict(parameters.shapes["params"])  # type: ignore[assignment]
    sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
    frozen = sum(size for path, size in sizes.items() if parameters.is_frozen(path))
    print(f"{sum(sizes.values()) / 1e6:.2f} M parameters, {frozen / 1e6:.2f} M of them frozen", end="")
    kind = jax.devices()[0].device_kind
    print(f"; {config.run.parallel} on {devices.device_count} x {kind}")
    for line in unused(config.model.dyhead):
        print(f"note: {line}")
    batch, rates = config.data.batch_size, config.optim
    for name, (rate, rule) in optim.multipliers(rates, parameters).items():
        if rate != 1:
            reached = sum(size for path, size in sizes.items() if rule(path) and not parameters.is_frozen(path))
            if not reached and not begun and not switched_off(name, config):
                raise ConfigError(
                    f"config.optim.{name} is {rate:g}, but reaches no parameter; {MISSING[name]}, or set it to 1"
                )
            print(f"optim.{name} {rate:g} is for {reached:,} parameters")
    micro = f" in {rates.accumulate} micro-batches" if rates.accumulate > 1 else ""
    rate = optim.scaled(rates, batch).learning_rate
    scale = f" ({rates.learning_rate:g} x {batch} / {rates.base_batch_size})" if rates.base_batch_size else ""
    images = batch // devices.device_count
    print(
        f"batch {batch} = {devices.device_count} devices x {images} images{micro}; learning rate {rate:g}{scale}",
        flush=True,
    )


def switched_off(name: str, config: Config) -> bool:
    """Whether a multiplier is for a part that the config itself leaves out: no spatial attention, as in an ablation."""
    dyhead = config.model.dyhead
    if name != "offset_rate" or not hasattr(dyhead, "spatial"):
        return False
    return not dyhead.num_blocks or dyhead.spatial.module == nodes.OFF
