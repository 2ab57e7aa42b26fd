"""How time and memory of a DyHead block grow with the pixels of an image and with the batch: fitted exponents.

    python benchmarks/growth.py --out=benchmarks/results/growth_cpu.md

Square images with sides from 256 to 1333 pixels, one at a time, then batches of 1 to 16 images of 384 pixels, which
have about as many cells; forward + backward. The exponent is the slope of a straight line fitted to the logarithms; 1
is linear. "cells" are those of the pyramid, whose levels halve, rounded up.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax import command
from dyhead_jax.dyhead import DyHead
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import block, tables, timing
from dyhead_jax.measure.timing import MIB, compiled, machine, with_gradients
from dyhead_jax.training import steps

SIDES = (256, 384, 512, 640, 800, 1067, 1333)
BATCHES, SIDE = (1, 2, 4, 8, 16), 384


def program(side: int, batch: int, channels: int) -> tuple[int, timing.Program]:
    """The cells of the batch's pyramids, and the block's forward + backward on them."""
    levels = block.sizes((side, side), 5)
    pyramid = block.random_pyramid(levels, batch, channels, jnp.float32)
    head = DyHead(num_blocks=1, features=channels)
    variables = steps.jit_once(head.init)(jax.random.key(9), pyramid)
    name = f"{batch} x {side} x {side}"
    return batch * sum(h * w for h, w in levels), compiled(name, with_gradients(head.apply, (0, 1)), variables, pyramid)


def exponent(cells: list[int], values: list[float]) -> float:
    return float(np.polyfit(np.log(cells), np.log(values), 1)[0])


def main() -> None:
    parser = command.parser("python benchmarks/growth.py", __doc__)
    parser.add_argument("--channels", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=5, help="timed rounds (5)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="also write the tables here")
    options = parser.parse_args()
    lines = [
        f"Command: `python benchmarks/growth.py --channels={options.channels} --repeats={options.repeats}`",
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        f"One DyHead block, {options.channels} channels, five levels, float32, forward + backward.",
    ]
    for what, chosen in {
        "pixels": [(side, 1) for side in SIDES],
        "batch": [(SIDE, batch) for batch in BATCHES],
    }.items():
        made = [program(side, batch, options.channels) for side, batch in chosen]
        timing.run_in_turn([p for _, p in made], options.repeats)
        lines += [
            "",
            *tables.header("images", "cells", "median, ms", "ns a cell", "temporaries, MiB", "bytes a cell"),
        ]
        for cells, p in made:
            time = f"{p.median * 1e3:.1f}", f"{p.median / cells * 1e9:.0f}"
            memory = f"{p.temporaries / MIB:.0f}", f"{p.temporaries / cells:.0f}"
            lines.append(tables.row(p.name, str(cells), *time, *memory))
        cells = [cells for cells, _ in made]
        time_exponent = exponent(cells, [p.median for _, p in made])
        memory_exponent = exponent(cells, [p.temporaries for _, p in made])
        lines += ["", f"Exponents in {what}: time {time_exponent:.3f}, temporaries {memory_exponent:.3f}."]
    text = "\n".join(lines) + "\n"
    print(text)
    if options.out is not None:
        write_atomic(options.out, text.encode())


if __name__ == "__main__":
    command.run(main)
