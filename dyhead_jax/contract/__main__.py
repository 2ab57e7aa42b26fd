"""Checks attentions or a block of your own against the contract of DyHead.

python -m dyhead_jax.contract --help
"""

import os
import re
import sys
from collections.abc import Sequence

from dyhead_jax import command
from dyhead_jax.contract import PROPERTIES
from dyhead_jax.contract.compiling import quick_flags

KINDS = {"spatial": "spatial attention", "scale": "scale attention", "task": "task attention", "block": "block"}
DESCRIPTION = f"""\
Checks attentions, or a block, of your own: will they train, in every detector, on every device, and export?

Each is named by its import path, as in a config, with options of its own behind a dot; those that are not named are the
shipped ones. One line is printed for each property, with what the contract wants and what it saw where it FAILED; then
the exit code is 1. All runs on the CPU with two tiny blocks, in about a minute.

{chr(10).join(f"  {name:<12}{text}" for name, (_, text) in PROPERTIES.items())}

What an attention is given and has to return: the docstring of dyhead_jax.detectors."""

EXAMPLES = """\
  python -m dyhead_jax.contract --spatial mine:MySpatial --spatial.num_points=8
  python -m dyhead_jax.contract --scale mine:SqueezeExcite --task mine:TwoGates
  python -m dyhead_jax.contract --block mine:MyBlock --features 64
  python -m dyhead_jax.contract --task mine:TwoGates --only gradients --only batch --debug
  python -m dyhead_jax.contract                            the shipped ones"""


def split(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Arguments without, and those of the form --spatial.num_points=8 as "spatial.num_points=8"."""
    plain, options, rest = [], [], list(arguments)
    while rest:
        argument = rest.pop(0)
        match = re.fullmatch(rf"--(({'|'.join(KINDS)})\.\w+)(=.*)?", argument, re.DOTALL)
        if match is None:
            plain.append(argument)
        elif match[3] is None and not rest:
            raise command.UsageError(f"{argument} needs a value, as in {argument}=8")
        else:
            options.append(match[1] + (match[3] or f"={rest.pop(0)}"))
    return plain, options


def _main() -> int:
    parser = command.parser("python -m dyhead_jax.contract", DESCRIPTION, EXAMPLES)
    for kind, name in KINDS.items():
        parser.add_argument(
            f"--{kind}", metavar="PATH", help=f"import path of your {name}, as in mine:MyClass, or none"
        )
    parser.add_argument("--features", type=int, default=16, help="of a map, a multiple of 4 (default: 16)")
    parser.add_argument(
        "--only", action="append", choices=tuple(PROPERTIES), metavar="NAME", help="this property; repeatable"
    )
    arguments, own = split(sys.argv[1:])
    options = command.parse(parser, arguments)
    command.no_overrides(options)
    if options.features < 4 or options.features % 4:
        raise command.UsageError(f"--features is {options.features}; it must be a multiple of 4")

    # eight devices, and programs that compile fast; has to stand before JAX starts
    os.environ["XLA_FLAGS"] = " ".join([*quick_flags(devices=8), os.environ.get("XLA_FLAGS", "")])
    os.environ["JAX_PLATFORMS"] = "cpu"
    from tqdm import tqdm

    from dyhead_jax.contract.check import check
    from dyhead_jax.contract.subject import make_subject

    chosen = {kind: path for kind in KINDS if (path := getattr(options, kind)) is not None}
    subject = make_subject(chosen, own, options.features)
    names = [name for name in PROPERTIES if not options.only or name in options.only]
    failed = 0
    with tqdm(total=len(names), unit="property", leave=False, disable=None) as bar:
        for outcome in check(subject, names, debug=options.debug):
            bar.update()
            tqdm.write(str(outcome))
            sys.stdout.flush()
            failed += outcome.holds is False
    print(f"{failed} of {len(names)} properties FAILED" if failed else f"all {len(names)} properties hold")
    return 1 if failed else 0


if __name__ == "__main__":
    command.run(_main)
