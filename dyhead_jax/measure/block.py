"""Time of DyHead blocks alone on a pyramid, for each implementation or attention that is named.

--attention replaces attentions by other modules (spatial=package:Class, scale=..., task=...) or switches them off
(task=none), or replaces the whole block (block=package:Class); options of their own follow, as in a config
(spatial.num_points=8). One --attention may name several kinds. Each is timed beside the block as it is. The yardstick
is a plain 3x3 convolution of the finest level. --batch, --size and --dtype take several values with commas: every
combination is timed.

A second table has the parameters of each variant, the multiply-adds of its forward program, how often the compiled
programs gather, their time as a ratio to the first variant's, and their temporaries. --parts times each module of the
block, and its norms, as a program of its own beside the block, for a third table.

  python -m dyhead_jax.benchmark block
  python -m dyhead_jax.benchmark block --blocks 6 --scan --remat --size 800x1344
  python -m dyhead_jax.benchmark block --attention task=none --attention spatial=mine:MySpatial spatial.num_points=8
  python -m dyhead_jax.benchmark block --attention scale=none task=none --size 256 --parts
  python -m dyhead_jax.benchmark block --batch 1,2,4 --size 256,512x640 --dtype float32,bfloat16 --plot block.png
"""

import argparse
import re
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from dyhead_jax import command
from dyhead_jax.config import Config, flags, nodes
from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import harness, hlo, parts, tables
from dyhead_jax.measure import options as common
from dyhead_jax.measure.harness import Case, Job
from dyhead_jax.measure.parts import BOTH, FORWARD, named
from dyhead_jax.measure.report import columns_of
from dyhead_jax.measure.timing import MIB, Program, Setting, ratio, with_gradients
from dyhead_jax.training import steps

REPLACEABLE = ("spatial", "scale", "task", "block")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    common.add(parser, (800, 1216), "the image")
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=1)
    parser.add_argument("--levels", type=int, default=5, help="of the pyramid, from stride 8 on (5)")
    parser.add_argument("--coarse-offsets", default="flat", help="see dyhead_jax/dyhead/coarse_offsets.py (flat)")
    parser.add_argument("--scan", action="store_true", help="compile one block and loop over all")
    parser.add_argument("--remat", action="store_true", help="recompute blocks in the backward pass")
    parser.add_argument("--parts", action="store_true", help="also time each module of the block alone")
    parser.add_argument("--implementation", action="append", metavar="NAME", help="repeatable; default auto")
    parser.add_argument(
        "--attention", action="append", nargs="+", metavar="KIND[.OPTION]=VALUE", help="repeatable, each a variant"
    )


def run(options: argparse.Namespace) -> int:
    common.check(options)
    common.refuse_overrides(options, "block")
    if options.parts and (options.blocks > 1 or options.scan or options.remat):
        raise command.UsageError("--parts is about one block: leave out --blocks, --scan and --remat")
    variants: dict[str, dict[str, Any]] = {}
    for name in options.implementation or ["auto"]:
        variants[name] = {"implementation": name}
    for settings in options.attention or []:
        variants[" ".join(settings)] = attentions(settings)
    kinds = (FORWARD,) if options.forward else (FORWARD, BOTH)
    parameters: dict[str, int] = {}
    names: dict[str, list[str]] = {name: [] for name in variants}

    def jobs(setting: Setting) -> Iterator[Job]:
        dtype = jnp.dtype(setting.dtype)
        levels = sizes(setting.size, options.levels)
        pyramid = random_pyramid(levels, setting.batch, options.channels, dtype)
        for name, choice in variants.items():
            head = DyHead(
                num_blocks=options.blocks,
                features=options.channels,
                coarse_offsets=options.coarse_offsets,
                scan=options.scan,
                remat=options.remat,
                dtype=dtype,
                **choice,
            )
            variables = steps.jit_once(head.init)(jax.random.key(9), pyramid)
            parameters[name] = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]))
            for kind in kinds:
                function = head.apply if kind == FORWARD else with_gradients(head.apply, (0, 1))
                yield Job(named(name, "", kind), function, (variables, pyramid), setting)
            if options.parts:
                for part, job in parts.jobs(name, head, variables, pyramid, setting, kinds):
                    names[name] = list(dict.fromkeys((*names[name], part)))
                    yield job

    swept = common.settings(options)
    cases = [Case(s, options.channels, sizes(s.size, 1)[0], lambda s=s: jobs(s)) for s in swept]
    title = f"{options.blocks} DyHead block(s), {options.channels} channels"
    report = harness.measure(common.titled(title, swept), cases, options)
    groups = [group.programs for group in report.groups]
    print("\n" + cost_table(parameters, groups, kinds))
    if options.parts:
        print("\n" + parts.table(names, groups, kinds))
    return harness.exit_code(report)


def cost_table(parameters: dict[str, int], groups: Sequence[Sequence[Program]], kinds: Sequence[str]) -> str:
    """A row for each variant in each setting. parameters: by variant; groups: the programs of each setting. Times are
    ratios to those of the first variant. A variant that lacks a program is left out."""
    swept = columns_of([programs[0].setting for programs in groups if programs])
    times = (f"{k}, x" for k in kinds)
    rows = [("variant", *swept, "parameters", "multiply-adds", "gathers", *times, "temporaries, MiB")]
    for programs in groups:
        by_name = {p.name: p for p in programs}
        first: list[Program] = []
        for name, count in parameters.items():
            own = [by_name[full] for kind in kinds if (full := named(name, "", kind)) in by_name]
            if len(own) < len(kinds):
                continue
            first = first or own
            ratios = [f"{ratio(p, unit):.2f}" for p, unit in zip(own, first, strict=True)]
            gathers = [str(hlo.parse(p.executable.as_text()).count("gather")) for p in own]
            temporaries = [f"{p.temporaries / MIB:.1f}" for p in own]
            where = [cell(own[0].setting) for cell in swept.values()]
            cells = f"{count:,}", f"{own[0].flops / 2e9:.3f} G", " / ".join(gathers), *ratios, " / ".join(temporaries)
            rows.append((name, *where, *cells))
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
