"""Time of DyHead blocks alone on a pyramid, for each implementation or attention that is named.

--attention replaces attentions by other modules (spatial=package:Class, scale=..., task=...) or switches them off
(task=none), or replaces the whole block (block=package:Class); options of their own follow, as in a config
(spatial.num_points=8). Each --attention is timed beside the block as it is. The yardstick is a plain 3x3 convolution of
the finest level. A second table has the parameters of each variant, the multiply-adds of its forward program, how often
the compiled programs gather, their time as a ratio to the first variant's, and their temporaries.

  python -m dyhead_jax.benchmark block
  python -m dyhead_jax.benchmark block --blocks 6 --scan --remat --size 800x1344
  python -m dyhead_jax.benchmark block --attention task=none --attention spatial=mine:MySpatial spatial.num_points=8
"""

import argparse
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.config import Config, flags, nodes
from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import hlo, tables
from dyhead_jax.measure import options as common
from dyhead_jax.measure.timing import MIB, Program, compiled, ratio, with_gradients
from dyhead_jax.training import steps

REPLACEABLE = ("spatial", "scale", "task", "block")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add(parser)
    parser.add_argument("--size", type=common.size, default=(800, 1216), metavar="HxW", help="of the image (800x1216)")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--levels", type=int, default=5, help="of the pyramid, from stride 8 on (5)")
    parser.add_argument("--coarse-offsets", default="flat", help="see dyhead_jax/dyhead/coarse_offsets.py (flat)")
    parser.add_argument("--scan", action="store_true", help="compile one block and loop over all")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--implementation", action="append", metavar="NAME", help="repeatable; default auto")
    parser.add_argument(
        "--attention", action="append", nargs="+", metavar="KIND[.OPTION]=VALUE", help="repeatable, each a variant"
    )


def run(options: argparse.Namespace) -> None:
    common.check(options)
    common.refuse_overrides(options, "block")
    variants: dict[str, dict[str, Any]] = {}
    for name in options.implementation or ["auto"]:
        variants[name] = {"implementation": name}
    for settings in options.attention or []:
        variants[" ".join(settings)] = attentions(settings)
    dtype = jnp.dtype(options.dtype)
    levels = sizes(options.size, options.levels)
    pyramid = random_pyramid(levels, options.batch, options.channels, dtype)
    programs, parameters = [], {}
    for name, choice in variants.items():
        fields = {
            "num_blocks": options.blocks,
            "features": options.channels,
            "coarse_offsets": options.coarse_offsets,
            "scan": options.scan,
            "remat": options.remat,
            "dtype": dtype,
        }
        head = DyHead(**fields, **choice)
        variables = steps.jit_once(head.init)(jax.random.key(9), pyramid)
        parameters[name] = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
        programs.append(compiled(f"{name} forward", head.apply, variables, pyramid))
        if not options.forward:
            programs.append(
                compiled(f"{name} forward+backward", with_gradients(head.apply, (0, 1)), variables, pyramid)
            )
    h, w = options.size
    title = f"{options.blocks} DyHead block(s), {options.channels} channels, {options.batch}x{h}x{w}, {options.dtype}"
    common.time_and_report(
        title, programs, options, channels=options.channels, at=levels[0], batch=options.batch, dtype=options.dtype
    )
    print("\n" + cost_table(parameters, programs))


def cost_table(parameters: dict[str, int], programs: Sequence[Program]) -> str:
    """A row a variant. parameters: by variant; programs: for each variant the forward program and, or not, the one with
    gradients. Times are ratios to those of the first variant."""
    each = len(programs) // len(parameters)
    kinds = ("forward", "forward+backward")[:each]
    rows = [("variant", "parameters", "multiply-adds", "gathers", *(f"{k}, x" for k in kinds), "temporaries, MiB")]
    for i, (name, count) in enumerate(parameters.items()):
        own = programs[i * each : (i + 1) * each]
        ratios = [f"{ratio(p, first):.2f}" for p, first in zip(own, programs[:each], strict=True)]
        gathers = [str(hlo.parse(p.executable.as_text()).count("gather")) for p in own]
        temporaries = [f"{p.temporaries / MIB:.1f}" for p in own]
        cells = f"{count:,}", f"{own[0].flops / 2e9:.3f} G", " / ".join(gathers), *ratios, " / ".join(temporaries)
        rows.append((name, *cells))
    return tables.aligned(rows)


def attentions(settings: Sequence[str]) -> dict[str, Any]:
    """Fields of `DyHead` for settings such as ["spatial=mine:MySpatial", "spatial.num_points=8"].

    Raises UsageError for another form or an unknown option, ConfigError for an import path that leads nowhere.
    """
    for text in settings:
        if not re.fullmatch(rf"(?!block=none$)({'|'.join(REPLACEABLE)})(\.\w+)?=.+", text):
            raise command.UsageError(
                f"--attention has {text!r}; it must be {'|'.join(REPLACEABLE)}=package:Class, =none, or .OPTION=VALUE"
            )
    config = flags.override(Config(), [f"--config.model.dyhead.{text}" for text in settings])
    kinds = {re.split(r"[.=]", text)[0] for text in settings}
    return {kind: nodes.target_of(getattr(config.model.dyhead, kind)) for kind in kinds}


def sizes(image: tuple[int, int], levels: int, stride: int = 8) -> list[tuple[int, int]]:
    """Map sizes of a pyramid whose finest level has this stride, each half of the one before, rounded up."""
    result = [(-(-image[0] // stride), -(-image[1] // stride))]
    for _ in range(levels - 1):
        h, w = result[-1]
        result.append(((h + 1) // 2, (w + 1) // 2))
    return result


def random_pyramid(levels: list[tuple[int, int]], batch: int, channels: int, dtype: Any) -> list[jax.Array]:
    """Normal noise [(batch, h_l, w_l, channels)] for each of the map sizes."""
    keys = jax.random.split(jax.random.key(8), len(levels))
    return [jax.random.normal(k, (batch, *s, channels), dtype) for k, s in zip(keys, levels, strict=True)]
