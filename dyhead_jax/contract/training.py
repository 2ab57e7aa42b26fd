"""What happens in training only: random numbers, batch statistics, learning rates."""

import jax
import numpy as np
from flax import errors

from dyhead_jax import detectors
from dyhead_jax.command import one_line
from dyhead_jax.contract.independence import ROUNDING
from dyhead_jax.contract.subject import Broken, Subject, by_path, difference
from dyhead_jax.contract.tiny_model import CANVAS
from dyhead_jax.dyhead.building import declared
from dyhead_jax.training import steps

KEPT = ("params", "batch_stats", "intermediates")


def train(subject: Subject) -> str:
    """Dropout and batch statistics follow `train`: without it, results are fixed and nothing is changed."""
    pyramid, variables = subject.pyramid(), subject.initial
    takes = [kind for kind in subject.tested if declared(subject.attention(kind), train=False)]
    for name in variables:
        if name not in KEPT:
            raise Broken(f"training keeps params and batch_stats, but a module creates the collection {name!r}")
    statistics = [path for path in by_path(variables.get("batch_stats", {})) if subject.own(path)]
    if statistics and not takes:
        raise Broken(f"there are batch statistics ({'/'.join(statistics[0])}), but no call declares `train`")
    try:
        jax.eval_shape(subject.head().apply, variables, pyramid)
    except errors.InvalidRngError as error:
        raise Broken(f"detection has no random numbers, but: {one_line(error)}") from error
    if not takes:
        return "no call declares `train`; no batch statistics, and detection needs no random numbers"
    head = subject.head()
    wanted, after = steps.jit_once(lambda v: head.apply(v, pyramid, train=False, mutable=["batch_stats"]))(variables)
    before = variables.get("batch_stats", {})
    if difference(after.get("batch_stats", before), before) > 0:
        raise Broken("without `train` batch statistics stay, but they change")
    step = steps.jit_once(
        lambda v, key: head.apply(v, pyramid, train=True, rngs={"dropout": key}, mutable=["batch_stats"])
    )
    one, moved = step(variables, jax.random.key(0))
    other, _ = step(variables, jax.random.key(1))
    found = [f"{' and '.join(takes)} take{'s' if len(takes) == 1 else ''} `train`"]
    found.append("random numbers" if difference(one, other) > ROUNDING else "no random numbers")
    if statistics and not difference(moved["batch_stats"], before) > 0:
        raise Broken("in training batch statistics move, but they stay")
    found.append(f"{len(statistics)} arrays of batch statistics, which move" if statistics else "no batch statistics")
    if difference(one, wanted) <= ROUNDING and not statistics:
        found.append("with these options training and detection do the same")
    loop = subject.head(scan=True, remat=True)
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    jax.eval_shape(lambda: loop.init_with_output(rngs, pyramid, train=True))
    return "; ".join(found)


def rates(subject: Subject) -> str:
    """What a module declares of its parameters exists; a layer that says where to sample is among
    `offset_parameters`."""
    parameters = steps.survey(detectors.build(subject.config.model), CANVAS)
    paths = [path[1:] for path in by_path(parameters.shapes["params"]) if path[0] == "dyhead"]
    own = [path for path in paths if subject.own(path) and path[0] == "block_0"]
    reached = [path for path in own if ("dyhead", *path) in parameters.offsets]
    for path in own:
        if any("offset" in name for name in path[1:]) and path not in reached:
            raise Broken(
                f"offset_rate does not reach {'/'.join(path)}; name it in `offset_parameters` of its module, or"
                " otherwise if it does not say where to sample"
            )
    groups = {
        "offset_rate": reached,
        "bias_rate": [p for p in own if p[-1] == "bias" and ("dyhead", *p) not in parameters.norms],
        "never trained": [p for p in own if ("dyhead", *p) in parameters.frozen],
        "not decayed": [p for p in own if ("dyhead", *p) in parameters.undecayed],
    }
    leaves = by_path(parameters.shapes["params"])

    def size(group: list) -> int:
        return sum(int(np.prod(leaves["dyhead", *path].shape)) for path in group)

    return "of a block, " + "; ".join(f"{name}: {size(group):,} values" for name, group in groups.items())
