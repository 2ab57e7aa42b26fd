"""Time of a config's whole DyHead on its pyramid, forward and with gradients.

The yardstick is a plain 3x3 convolution of the finest level. --batch, --size and --dtype take several values with
commas, --compare several configs, each with options of its own if it is quoted: every combination has a row.

  python -m dyhead_jax.benchmark head --config=configs/atss_r50_dyhead_1x.py --batch 1 --size 800x1216
  python -m dyhead_jax.benchmark head --compare configs/depth.py:2 configs/depth.py:6 --batch 1 --size 256x320
  python -m dyhead_jax.benchmark head --config=configs/demo_shapes.py --batch 1,2,4 --size 128,256 --plot head.png
"""

import argparse
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp

from dyhead_jax.config import Config, nodes
from dyhead_jax.measure import block, harness
from dyhead_jax.measure import options as common
from dyhead_jax.measure.harness import Case, Job
from dyhead_jax.measure.report import Report
from dyhead_jax.measure.timing import compare, with_gradients
from dyhead_jax.training import steps

Jobs = Callable[[str, Config], Iterator[Job]]  # of a config and its name on the command line, as many for each config
add_arguments = common.add_configs


def run(options: argparse.Namespace) -> int:
    common.check(options)
    return harness.exit_code(measure("DyHead", jobs, options))


def jobs(name: str, config: Config) -> Iterator[Job]:
    """The config's DyHead on noise."""
    head = nodes.build(config.model.dyhead, dtype=jnp.dtype(config.model.dtype))
    pyramid = random_pyramid(config)
    variables = steps.jit_once(head.init)(jax.random.key(9), pyramid)
    setting = common.setting_of(config)
    yield Job(f"{name} forward", head.apply, (variables, pyramid), setting)
    yield Job(f"{name} forward+backward", with_gradients(head.apply, (0, 1)), (variables, pyramid), setting)


def measure(what: str, jobs: Jobs, options: argparse.Namespace) -> Report:
    """Times what `jobs` makes of the configs of the command line, in every setting; prints the ratios of --compare."""
    chosen = common.config_settings(options)
    settings = [common.setting_of(configs[0][1]) for configs in chosen]
    cases = [case(configs, jobs) for configs in chosen]
    report = harness.measure(common.titled(f"{what} of images", settings), cases, options)
    for group, setting in zip(report.groups, settings, strict=True):
        if len(chosen[0]) > 1 and not group.failed:
            each = len(group.programs) // len(chosen[0])
            for i, program in enumerate(group.programs[each:]):
                where = "" if len(settings) == 1 else f" ({setting})"
                print(compare(group.programs[i % each], program) + where)
    return report


def case(configs: list[tuple[str, Config]], jobs: Jobs) -> Case:
    """The jobs of several configs, with the yardstick of the first."""
    first = configs[0][1]
    neck = first.model.neck
    return Case(
        common.setting_of(first),
        neck.features,
        levels(first)[0],
        lambda: [job for name, config in configs for job in jobs(name, config)],
    )


def levels(config: Config) -> list[tuple[int, int]]:
    """Map sizes of the pyramid that the config's neck returns for its first canvas, fine to coarse."""
    neck = config.model.neck
    stride = 4 * 2**neck.start  # of the backbone's stage `start`
    return block.sizes(config.data.canvases[0], neck.levels, stride)


def random_pyramid(config: Config) -> list[jax.Array]:
    """Noise [(b, h_l, w_l, c)] of the pyramid's shapes."""
    features, dtype = config.model.neck.features, jnp.dtype(config.model.dtype)
    return block.random_pyramid(levels(config), config.data.batch_size, features, dtype)
