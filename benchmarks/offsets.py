"""How far a trained model's offsets reach, and so how many samples the "windows" form leaves over.

    python benchmarks/offsets.py --workdir=runs/demo --out=benchmarks/results/offsets_cpu.md

That form of the deformable convolution reads the samples in the window around a tile of positions; positions with a
sample beyond it are read again, in chunks of a 64th of all (`ops/deform_conv/leftover.py`). Counted on the images of
val, for the convolution of each level's own map, block by block: the positions with a sample outside its window, and
the length of offsets (the larger of dy and dx, in pixels of the level). The workdir is only read.
"""

from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax import command, detectors
from dyhead_jax.data.source import make_source
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import tables
from dyhead_jax.measure.timing import machine
from dyhead_jax.ops.deform_conv import geometry
from dyhead_jax.ops.deform_conv.tiles import grid_of, in_window
from dyhead_jax.training.parallel import local_variables, map_detect

TAPS = 9


def main() -> None:
    parser = command.parser("python benchmarks/offsets.py", __doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished training run")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the latest)")
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    loaded = load_for_inference(options.workdir, options.step)
    model = detectors.build(loaded.config.model)
    collected: dict[tuple[str, int], list[np.ndarray]] = defaultdict(list)

    def collect(block: str, level: int, numbers: jax.Array) -> None:
        collected[block, level].append(np.asarray(numbers))

    def detect(variables: Any, images: jax.Array, sizes: jax.Array):
        detections, state = model.apply(
            variables,
            images,
            sizes,
            method="detect",
            capture_intermediates=lambda module, name: (module.name, name) == ("offset", "__call__"),
            mutable=["intermediates"],
        )
        for path, out in jax.tree_util.tree_leaves_with_path(state["intermediates"]):
            block = next((key.key for key in path if "block" in str(getattr(key, "key", ""))), "?")
            jax.debug.callback(partial(collect, block, path[-1].idx), reach(out))
        return detections

    split = make_source(loaded.config.data, options.workdir).split("val")
    variables = local_variables(loaded.variables)
    evaluate_split(partial(map_detect(detect), variables), split, loaded.config.data)
    if not collected:
        raise command.UsageError(f"{options.workdir}: no offsets were seen: the model has no DyHead, or a scanned one")
    lines = [
        f"Command: `python benchmarks/offsets.py --workdir=runs/{options.workdir.name}`",
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        f"Step {loaded.step}, {len(split)} images of val, canvases {loaded.config.data.canvases}",
        "",
        *tables.header("block", "level", "positions", "outside of the window, %", "median", "99 %", "longest"),
    ]
    for (block, level), parts in sorted(collected.items()):
        outside, longest = np.concatenate(parts, axis=-1)
        middle, most = np.quantile(longest, (0.5, 0.99))
        lengths = (f"{length:.2f}" for length in (middle, most, longest.max()))
        lines.append(tables.row(block, str(level), str(len(outside)), f"{100 * outside.mean():.2f}", *lengths))
    print("\n".join(lines))
    if options.out is not None:
        write_atomic(options.out, ("\n".join(lines) + "\n").encode())


def reach(out: jax.Array) -> jax.Array:
    """From an offset convolution's output (b, h, w, 27), for each position whether a sample lies outside its window,
    and the longest offset: (2, b * h * w)."""
    offsets = out[..., : 2 * TAPS].astype(jnp.float32).reshape(*out.shape[:3], TAPS, 2)
    (layout,) = geometry.layouts_of(geometry.places_of([out]), [out.shape[1:3]])
    y, x = geometry.points((layout,), [offsets], (3, 3), (1, 1), (1, 1), (1, 1), 1)
    _, near = in_window(grid_of(layout, (3, 3), (1, 1), (1, 1), (1, 1)), layout, y, x)
    outside = jnp.any(~near, axis=(0, 2)).astype(jnp.float32)
    return jnp.stack([outside.reshape(-1), jnp.abs(offsets).max((3, 4)).reshape(-1)])


if __name__ == "__main__":
    command.run(main)
