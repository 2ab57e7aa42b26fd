"""The command line of a comparison.

python -m dyhead_jax.compare --help
"""

import sys
from pathlib import Path

from dyhead_jax import command
from dyhead_jax.command import UsageError
from dyhead_jax.compare import CompareError

DESCRIPTION = """Trains configs with several seeds each and compares them: one table, two pictures.

A CONFIG is what --config of dyhead_jax.train takes. With options of its own it stands in quotes; NAME=CONFIG gives its
row a name. --config.NAME=VALUE outside of quotes is for all of them. Gains are over the first one, seed by seed; a lone
/ begins another group of configs, with gains over the first of that group.

Runs follow each other: the first seed of every config, then the second. After each the folder has
    table.md, table.json    AP over seeds, gains, parameters, multiply-adds, time of a step, memory; and in which other
                            options the configs differ, so that a longer training is not taken for a better model
    bars.png                AP, its spread over seeds and the gains
    curves.png              AP against steps and against seconds
    CONFIG/seed0/           the folder of each run, as dyhead_jax.train leaves it, with seed0.log beside it
All seeds of a config share its compiled programs. A run that fails is named and the others go on (exit code 1 at the
end). SIGTERM saves the step of the run that is on and ends with 75. The same command goes on where it ended, and with
more configs or a larger --seeds runs only what is new."""
EXAMPLES = """  python -m dyhead_jax.compare shapes_grid:atss,plain shapes_grid:atss --workdir runs/dyhead --seeds 3
  python -m dyhead_jax.compare shapes_grid:fcos,plain shapes_grid:fcos / shapes_grid:reppoints,plain \\
      shapes_grid:reppoints --workdir runs/detectors
  python -m dyhead_jax.compare A.py B.py --workdir runs/ab --config.run.steps=300 --out results.md
  python -m dyhead_jax.compare demo_shapes 'demo_shapes --config.model.dyhead.task=mine:MyTask' --workdir runs/task
  python -m dyhead_jax.compare $(for n in 1 2 4; do echo depth$n=configs/depth.py:$n; done) --workdir runs/depth"""


def _main() -> int:
    parser = command.parser("python -m dyhead_jax.compare", DESCRIPTION, EXAMPLES)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="config file or name, see above")
    parser.add_argument("--workdir", type=Path, required=True, metavar="DIR", help="folder of all runs")
    parser.add_argument("--seeds", type=int, default=3, metavar="N", help="runs of each config: seeds 0 to N-1 (3)")
    parser.add_argument("--evaluations", type=int, default=6, metavar="N", help="points of a curve, evenly spaced (6)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="write the table here too")
    command.add_trust(parser)
    options = command.parse(parser)
    for name in ("seeds", "evaluations"):
        if getattr(options, name) < 1:
            raise UsageError(f"--{name} is {getattr(options, name)}; it must be at least 1")
    if options.workdir.exists() and not options.workdir.is_dir():
        raise UsageError(f"--workdir={options.workdir} is a file; it must be a folder, or not exist")
    if options.out is not None and not options.out.absolute().parent.is_dir():
        raise UsageError(f"--out={options.out}: there is no such folder")

    import jax

    from dyhead_jax.compare import candidates, runs
    from dyhead_jax.compare.process import Ended, Processes, machine
    from dyhead_jax.compare.progress import Progress
    from dyhead_jax.compare.report import Report

    jax.config.update("jax_platforms", "cpu")  # of this process alone: it counts, and leaves devices to the trainings
    chosen = candidates.read(options.configs, options.overrides, options.workdir, options.evaluations)
    planned = runs.plan(chosen, range(options.seeds), options.workdir)
    report = Report(chosen, planned, options.workdir, sys.argv[1:], options.out)
    processes, text = Processes(), ""

    def train(run: runs.Run, number: int) -> Ended:
        arguments = ["-m", "dyhead_jax.train", *run.candidate.arguments(run.seed), f"--workdir={run.folder}"]
        arguments += [f"--trust={package}" for package in options.trust]
        ended = processes.run(arguments, run.log, progress.begins(run, number))
        progress.ends(run, ended)
        return ended

    def write() -> None:
        nonlocal text
        text = report.write()

    with Progress(planned) as progress:
        code = runs.go_through(planned, train, write, machine() if progress.left else {})
    print(f"\n{text}\n{options.workdir / 'table.md'}, {options.workdir / 'bars.png'}, {options.workdir / 'curves.png'}")
    if code:
        print("stopped; the same command goes on from there", flush=True)
        return code
    if failed := [run for run in planned if run.has_failed]:
        listed = "; ".join(f"{run.name} ({run.log})" for run in failed)
        raise CompareError(f"{len(failed)} of {len(planned)} runs failed: {listed}")
    return 0


if __name__ == "__main__":
    command.run(_main)
