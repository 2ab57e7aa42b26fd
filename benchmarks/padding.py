"""What padding does to a trained model: AP on ever larger canvases, with statistics over whole maps or the image alone.

    python benchmarks/padding.py --workdir=runs/demo --out=benchmarks/results/padding_cpu.md

The images keep the size that short_side and long_side give them; the padding at their right and bottom grows. The
references take statistics over the whole map; with `config.model.dyhead.valid_area` they are taken over the image's own
cells. Both use the same weights: only evaluation changes, and a model that was trained with padding in its statistics
may expect it. Images that fill their canvas give the same result with both. The workdir is only read.
"""

import dataclasses
from functools import partial
from pathlib import Path

from dyhead_jax import command, detectors
from dyhead_jax.data.source import make_source
from dyhead_jax.evaluation.split import evaluate_split
from dyhead_jax.evaluation.trained_model import load_for_inference
from dyhead_jax.files import write_atomic
from dyhead_jax.measure import tables
from dyhead_jax.measure.timing import machine
from dyhead_jax.training.parallel import local_variables, map_detect
from dyhead_jax.training.steps import make_detect

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl")


def main() -> None:
    parser = command.parser("python benchmarks/padding.py", __doc__)
    parser.add_argument("--workdir", type=Path, required=True, help="folder of a finished training run")
    parser.add_argument("--step", type=int, help="checkpoint to load (default: the latest)")
    parser.add_argument(
        "--grow", type=float, nargs="+", default=[1.0, 1.2, 1.6, 2.0], help="factors on the sides of the canvases"
    )
    parser.add_argument("--out", type=Path, help="also write the table here")
    options = parser.parse_args()
    loaded = load_for_inference(options.workdir, options.step)
    config, variables = loaded.config, local_variables(loaded.variables)
    split = make_source(config.data, options.workdir).split("val")
    trained_with = config.model.dyhead.valid_area
    sizes = " ".join(f"{factor:g}" for factor in options.grow)
    lines = [
        f"Command: `python benchmarks/padding.py --workdir=runs/{options.workdir.name} --grow {sizes}`",
        "",
        ", ".join(f"{key} {value}" for key, value in machine().items()),
        "",
        f"Step {loaded.step}, {len(split)} images of val, short side {max(config.data.short_side)}; trained with"
        f" `valid_area={trained_with}` on canvases {config.data.canvases}. Evaluation alone changes.",
        "",
        *tables.header("canvases", "valid_area", *SHOWN),
    ]
    for factor in options.grow:
        canvases = tuple((round(h * factor), round(w * factor)) for h, w in config.data.canvases)
        data = dataclasses.replace(config.data, canvases=canvases)
        for valid_area in (False, True):
            dyhead = dataclasses.replace(config.model.dyhead, valid_area=valid_area)
            model = detectors.build(dataclasses.replace(config.model, dyhead=dyhead))
            metrics, _ = evaluate_split(partial(map_detect(make_detect(model)), variables), split, data)
            shown = ", ".join(f"{h} x {w}" for h, w in canvases)
            lines.append(tables.row(shown, str(valid_area), *(f"{metrics[key]:.4f}" for key in SHOWN)))
            print(lines[-1], flush=True)
            if options.out is not None:  # after every row: an interrupted run leaves what it has
                write_atomic(options.out, ("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    command.run(main)
