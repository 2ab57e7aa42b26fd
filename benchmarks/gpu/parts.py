"""The parts of a run, each called in a process of its own: python -m gpu.parts PART OUT [--rehearse]

Arithmetic is two operations for each multiply-add of a product, of the form "gather", whose sampling has none; least
bytes are those of all arguments and results, once. The floor of a program is the larger of the two over what the device
did in the same rounds: a large matrix product in the same precision, and a large copy, read and written.
"""

import dataclasses
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dyhead_jax import command
from dyhead_jax.command import one_line
from dyhead_jax.config import Config, flags
from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import block, timing, train
from dyhead_jax.measure.timing import GIB, MIB, Program
from dyhead_jax.ops.deform_conv import deform_conv
from dyhead_jax.training import steps
from gpu import rounds
from gpu.rounds import PRECISIONS, Precision, Rows

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
SMALL_MAPS = ("gather", "windows", "dense")
LARGE_MAPS = ("gather", "windows")  # the matrix of "dense" is samples x pixels


@dataclass(frozen=True)
class Case:
    """size: (height, width) of the operator's map, or of the images of a block or a training step; in_: a name of
    PRECISIONS; forms: of ours."""

    batch: int
    size: tuple[int, int]
    in_: str
    forms: tuple[str, ...] = LARGE_MAPS

    @property
    def precision(self) -> Precision:
        return PRECISIONS[self.in_]

    @property
    def dtype(self) -> Any:
        return jnp.dtype(self.precision.dtype)

    @property
    def fields(self) -> dict[str, Any]:
        return {"size": "x".join(map(str, self.size)), "batch": self.batch, "precision": self.in_}


@dataclass(frozen=True)
class Plan:
    """What is run. The most telling cases come first, since a part may run out of time. changes: of the model of the
    configs that are trained; matmul: side of the ceiling's matrices; copy: bytes of the other ceiling."""

    channels: int
    levels: int
    operator: tuple[Case, ...]
    block: tuple[Case, ...]
    train: tuple[Case, ...]
    changes: tuple[str, ...]
    repeats: int
    matmul: int
    copy: int

    def ceilings(self, precision: Precision) -> list[Program]:
        return rounds.ceilings(self.matmul, self.copy, precision)


LARGE, SMALL, IMAGE = (100, 152), (50, 76), (800, 1344)
FULL = Plan(
    channels=256,
    levels=5,
    operator=(
        Case(1, LARGE, "bfloat16"),
        Case(1, LARGE, "float32"),
        Case(8, LARGE, "bfloat16"),
        Case(8, LARGE, "float32"),
        Case(1, SMALL, "bfloat16", SMALL_MAPS),
        Case(1, SMALL, "float32", SMALL_MAPS),
        Case(8, SMALL, "bfloat16", SMALL_MAPS),
        Case(1, LARGE, "tf32"),
        Case(1, LARGE, "float16"),
    ),
    block=(Case(1, IMAGE, "bfloat16"), Case(1, IMAGE, "float32"), Case(8, IMAGE, "bfloat16"), Case(1, IMAGE, "tf32")),
    train=(Case(2, IMAGE, "bfloat16"), Case(2, IMAGE, "tf32")),
    changes=(),
    repeats=10,
    matmul=8192,
    copy=2 * GIB,
)
REHEARSAL = Plan(
    channels=16,
    levels=2,
    operator=(Case(1, (6, 7), "float32", SMALL_MAPS), Case(2, (5, 4), "bfloat16", ("gather",))),
    block=(Case(2, (32, 40), "float32", ("gather",)),),
    train=(Case(1, (64, 64), "tf32"),),
    changes=(
        "backbone.depth=18",
        "backbone.width=8",
        "neck.features=32",
        "neck.levels=2",
        "dyhead.features=32",
        "num_classes=3",
    ),
    repeats=2,
    matmul=64,
    copy=MIB,
)


def machine(rows: Rows, plan: Plan, out: Path) -> None:
    """Versions, the device, and its ceilings in each precision."""
    facts = timing.machine()
    try:
        import torch
        import torchvision

        facts |= {"torch": torch.__version__, "torchvision": torchvision.__version__}
        facts["torch runs on"] = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu"
    except Exception as error:  # an installation that does not fit the machine raises what it likes
        facts["torchvision"] = f"not used: {one_line(error)}"
    rows.add(machine=facts)
    for name, precision in PRECISIONS.items():
        tops = plan.ceilings(precision)
        timing.run_in_turn(tops, plan.repeats)
        flops, rate = rounds.rates(tops)
        rows.add(precision=name, matmul=plan.matmul, flops_per_s=flops, copy_bytes=plan.copy, bytes_per_s=rate)


def operator(rows: Rows, plan: Plan, out: Path) -> None:
    """The deformable 3x3 convolution in every form, and torchvision's; traces of the first case."""
    read = {"forward": arrays, "forward+backward": arrays}
    for case in plan.operator:
        with rows.guarded(**case.fields):
            arguments = operator_arguments(case, plan.channels)
            exact = [np.asarray(a, np.float32) for a in arguments]
            wide = tuple(jnp.asarray(a) for a in exact)
            forms = {
                form: lambda x, o, m, k, form=form: deform_conv(x, o, m, k, padding=1, implementation=form)
                for form in case.forms
            }
            found = compared(
                rows, case, plan, "operator", forms, (0, 1, 2, 3), arguments, read, (exact,), forms["gather"], wide
            )
            for candidate in found if case is plan.operator[0] else []:
                program = candidate.programs.get("forward+backward")
                if program is not None:
                    keep = out / "operator.xplane.pb" if candidate.name == "gather" else None
                    rounds.trace(rows, case.fields, candidate.name, program.call, keep)


def one_block(rows: Rows, plan: Plan, out: Path) -> None:
    """A DyHead block on a pyramid, by form, and the same block in PyTorch."""
    read = {"forward": arrays, "forward+backward": gradients_of_block}
    for case in plan.block:
        with rows.guarded(**case.fields):
            pyramid = block.random_pyramid(block.sizes(case.size, plan.levels), case.batch, plan.channels, case.dtype)

            def head(form: str, dtype: Any = case.dtype) -> DyHead:
                return DyHead(num_blocks=1, features=plan.channels, implementation=form, dtype=dtype)

            variables = steps.jit_once(head("gather").init)(jax.random.key(9), pyramid)
            exact = [np.asarray(x, np.float32) for x in pyramid]
            params = jax.tree.map(np.asarray, variables["params"]["block_0"])
            forms = {form: head(form).apply for form in case.forms}
            plain = head("gather", jnp.float32).apply
            wide = (variables, [jnp.asarray(x) for x in exact])
            arguments = (variables, pyramid)
            compared(rows, case, plan, "block", forms, (0, 1), arguments, read, (params, exact), plain, wide)


def compared(
    rows: Rows,
    case: Case,
    plan: Plan,
    kind: str,
    forms: dict[str, Callable[..., Any]],
    argnums: tuple[int, ...],
    arguments: tuple[Any, ...],
    read: dict[str, rounds.Results],
    exact: tuple[Any, ...],
    plain: Callable[..., Any],
    wide: tuple[Any, ...],
) -> list[rounds.Candidate]:
    """Times all forms and torchvision's. exact: the arguments for `pytorch`; plain, wide: ours and its arguments, where
    there is no torchvision to be the reference; all in float32."""
    expected = rounds.reference(kind, exact, plain, argnums, wide, read)
    theirs = rounds.candidates_of_torchvision(rows, case.fields, kind, exact, case.precision)
    ours = rounds.candidates_of_forms(rows, case.fields, forms, argnums, arguments, read, case.precision.products)
    tops = plan.ceilings(case.precision)
    return rounds.compare(rows, case.fields, [*ours, *theirs], expected, case.precision, tops, plan.repeats)


def training(rows: Rows, plan: Plan, out: Path) -> None:
    """A training step of ATSS with ResNet-50, with and without DyHead, and a trace of the one with DyHead."""
    for case in plan.train:
        with rows.guarded(**case.fields):
            makers = {name: step_of(name, case, plan) for name in ("atss_r50_dyhead_1x", "atss_r50_1x")}
            programs = rounds.compile_together(makers, case.precision.products)
            good = {name: program for name, program in programs.items() if isinstance(program, Program)}
            for name, program in programs.items():
                if isinstance(program, Exception):
                    rows.add(**case.fields, name=name, what="step", failed=rounds.short(program))
            tops = plan.ceilings(case.precision)
            timing.run_in_turn([*tops, *good.values()], plan.repeats)
            for name, program in good.items():
                rows.add(**case.fields, name=name, what="step", **rounds.numbers(program, tops, program))
            for name in [*good][:1] if case is plan.train[0] else []:
                rounds.trace(rows, case.fields, name, good[name].call, out / "train.xplane.pb")


def step_of(name: str, case: Case, plan: Plan) -> rounds.Maker:
    """What makes the step of a config of configs/, and its state and batch."""
    config = flags.load_file(str(CONFIGS / f"{name}.py"))
    changes = [f"dtype={case.precision.dtype}", *plan.changes]
    if plan is REHEARSAL:
        changes.append(f"dyhead.num_blocks={min(config.model.dyhead.num_blocks, 1)}")
    config: Config = flags.override(config, [f"--config.model.{change}" for change in changes])
    data = dataclasses.replace(config.data, batch_size=case.batch, canvases=(case.size,))
    step, first = train.parts(dataclasses.replace(config, data=data))
    return lambda: (step, (steps.jit_once(first)(), train.random_batch(dataclasses.replace(config, data=data))))


def operator_arguments(case: Case, c: int) -> tuple[jax.Array, ...]:
    """Map, offsets with a standard deviation of one pixel, mask, kernel. Offsets and mask are float32."""
    keys = jax.random.split(jax.random.key(3), 4)
    x = jax.random.normal(keys[0], (case.batch, *case.size, c), case.dtype)
    offsets = jax.random.normal(keys[1], (case.batch, *case.size, 9, 2))
    mask = jax.random.uniform(keys[2], (case.batch, *case.size, 9))
    kernel = jax.random.normal(keys[3], (3, 3, c, c)) / (9 * c) ** 0.5
    return x, offsets, mask, kernel.astype(case.dtype)


def arrays(found: Any) -> list[np.ndarray]:
    return [np.asarray(x, np.float32) for x in jax.tree.leaves(found)]


def gradients_of_block(found: Any) -> list[np.ndarray]:
    """Those of the pyramid and of the three deformable kernels, the ones that are compared."""
    variables, pyramid = found
    spatial = variables["params"]["block_0"]["spatial"]
    return arrays([*pyramid, *(spatial[f"{kind}_kernel"] for kind in ("mid", "low", "high"))])


PARTS = {"machine": machine, "operator": operator, "block": one_block, "train": training}


def main() -> None:
    parser = command.parser("python -m gpu.parts", __doc__ or "")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--without-torchvision", action="store_true")
    options = parser.parse_args()
    if jax.default_backend() == "cpu" and not options.rehearse:
        raise command.UsageError("JAX finds no GPU here; --rehearse runs everything in miniature on the CPU")
    if options.without_torchvision:
        sys.modules["torch"] = None  # type: ignore[assignment]  # so that importing it fails
    if options.rehearse:
        timing.SHORTEST = 0.0
    PARTS[options.part](
        Rows(options.out / "rows.jsonl", options.part), REHEARSAL if options.rehearse else FULL, options.out
    )


if __name__ == "__main__":
    command.run(main)
