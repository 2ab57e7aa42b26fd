"""python -m dyhead_jax.benchmark COMMAND --help

A command is a module of `dyhead_jax.measure`: its docstring is the help, `add_arguments(parser)` adds its options, and
`run(options)` runs it. `options.overrides` are the `--config.<name>=<value>` of the command line.
"""

import importlib

from dyhead_jax import command

DESCRIPTION = """\
What a model costs, measured, counted or estimated. Each command has its own --help.

These commands are the package dyhead_jax/measure/ and run on any model. The folder benchmarks/ of the repository is
something else: scripts for single questions, run by hand, and dated results of both."""
COMMANDS = ("op", "block", "head", "train", "infer", "diff", "cost", "remat", "tpu-compile", "tpu-forms", "tpu-profile")


def main() -> int | None:
    parser = command.parser("python -m dyhead_jax.benchmark", DESCRIPTION)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        module = importlib.import_module(f"dyhead_jax.measure.{name.replace('-', '_')}")
        sub = command.add_command(commands, name, module.__doc__ or "")
        module.add_arguments(sub)
        sub.set_defaults(run=module.run)
    options = command.parse(parser)
    return options.run(options)


if __name__ == "__main__":
    command.run(main)
