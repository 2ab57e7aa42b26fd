"""The forms in which the blocks run: a loop, recomputed in the backward pass, and divided over devices."""

import jax
import jax.numpy as jnp

from dyhead_jax.contract.subject import Broken, NotRun, Subject, difference, largest, program, weighted_sum
from dyhead_jax.measure import hlo
from dyhead_jax.training import parallel

DEVICES = 8
FORMS = 1e-3  # difference of gradients, relative to the largest: sums are taken in another order
MOVES = ("all-gather", "all-to-all", "collective-permute")


def scan(subject: Subject) -> str:
    """A loop over stacked blocks, which recomputes them in the backward pass, is the same as the blocks one by one."""
    pyramid, variables = subject.pyramid(), subject.moved()
    stacked = {
        name: {"blocks": jax.tree.map(lambda *parts: jnp.stack(parts), *tree.values())}
        for name, tree in variables.items()
    }
    head = subject.head(scan=True, remat=True)
    for form in (head, subject.head(scan=True)):
        shapes = jax.eval_shape(form.init, jax.random.key(0), pyramid)
        for (path, leaf), wanted in zip(
            jax.tree_util.tree_leaves_with_path(shapes), jax.tree.leaves(stacked), strict=True
        ):
            if leaf.shape != wanted.shape:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise Broken(f"scan stacks the blocks along axis 0, but {name} is {leaf.shape}, not {wanted.shape}")
    jax.eval_shape(subject.head(remat=True).apply, variables, pyramid)
    wanted, gradients = subject.run(variables, pyramid)
    found, of_loop = program(head)(stacked, pyramid)
    apart = {(f"block_{i}", *path[1:]): gradient[i] for path, gradient in of_loop.items() for i in range(len(gradient))}
    of_gradients = difference(apart, gradients, least=1e-3 * largest(gradients))
    for what, off in (("result", difference(found, wanted)), ("gradient", of_gradients)):
        if not off <= FORMS:
            raise Broken(f"scan and remat change nothing, but the {what} differs by {off:.2g} of its largest value")
    return "results and gradients equal those of the blocks one by one"


def sharding(subject: Subject) -> str:
    """Under jit over a mesh that divides the batch, no map travels between devices, forward or backward."""
    if jax.device_count() < DEVICES:
        raise NotRun(f"needs {DEVICES} devices; there are {jax.device_count()}")
    mesh = parallel.Jit(jax.devices()[:DEVICES])
    head = subject.head(num_blocks=1)
    shapes = [jax.ShapeDtypeStruct((DEVICES, *x.shape[1:]), x.dtype) for x in subject.pyramid()]
    _, variables = subject.traced(3)

    def run(variables, pyramid):
        def objective(params):
            levels = head.apply(variables | {"params": params}, pyramid)
            return weighted_sum(levels), levels

        return jax.grad(objective, has_aux=True)(variables["params"])

    split = jax.jit(run, in_shardings=(mesh.replicated, mesh.sharded), out_shardings=(mesh.replicated, mesh.sharded))
    options = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
    text = split.lower(variables, shapes).compile(options).as_text()
    moved = [instruction for instruction, _ in hlo.parse(text or "").of_kind(*MOVES)]
    if moved:
        one = max(moved, key=lambda instruction: instruction.size)
        raise Broken(
            f"each device keeps its images, but the program has {len(moved)} of {', '.join({i.kind for i in moved})};"
            f" the largest is {one.shape} from {one.op_name or 'the compiler'}"
        )
    return f"no map leaves its device among {DEVICES}"
