"""The modules of a block as programs of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import block, parts
from dyhead_jax.measure.timing import Program, Setting
from dyhead_jax.training import steps

SETTING = Setting(1, (16, 16), "float32")


@pytest.fixture(scope="module")
def made():
    """A block with plain convolutions in the place of the deformable ones, its variables, its pyramid, and the jobs of
    its parts."""
    head = DyHead(num_blocks=1, features=4, norm_groups=2, spatial="none")
    pyramid = block.random_pyramid([(2, 2), (1, 1)], 1, 4, jnp.float32)
    shapes = jax.eval_shape(head.init, jax.random.key(0), pyramid)
    variables = jax.tree.map(lambda s: jnp.linspace(-1.0, 1.0, s.size).reshape(s.shape), shapes)
    jobs = list(parts.jobs("auto", head, variables, pyramid, SETTING, (parts.FORWARD, parts.BOTH)))
    return head, variables, pyramid, jobs


def test_parts_have_the_arguments_and_the_results_that_they_have_in_the_block(made):
    head, variables, pyramid, jobs = made
    assert [job.name for _, job in jobs[::2]] == [
        "auto spatial forward",
        "auto norms forward",
        "auto scale forward",
        "auto task forward",
    ]
    chosen = {name: job for name, job in jobs[::2]}
    arguments = {name: job.arguments for name, job in chosen.items()}
    run = steps.jit_once(lambda given: {name: chosen[name].function(*own) for name, own in given.items()})
    results = run(arguments)
    assert len(results["spatial"]) == 1
    assert len(results["norms"]) == 2 + 1 + 1  # own on two levels, one finer, one coarser
    assert len(results["scale"]) == len(results["task"]) == 2
    whole = steps.jit_once(head.apply)(variables, pyramid)
    for found, expected in zip(results["task"], whole, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    (candidates,) = results["spatial"]
    np.testing.assert_allclose(candidates[0][0], results["norms"][0], rtol=1e-4, atol=1e-5)


def test_gradients_are_those_of_variables_and_inputs(made):
    *_, jobs = made
    for _, job in jobs[1::2]:
        variables, floats, others = job.arguments
        assert jax.eval_shape(job.function, variables, floats, others) == jax.eval_shape(
            lambda *a: a, variables, floats
        )
    assert jobs[-1][1].name == "auto task forward+backward"
    assert set(jobs[-1][1].arguments[0]["block_0/task"]["params"]) == {"squeeze", "expand"}


def test_the_rest_is_what_the_block_takes_longer():
    def program(name, *seconds):
        return Program(name, lambda: None, 0.0, 0.0, 0.0, 0.0, seconds=list(seconds), setting=SETTING)

    programs = [
        program("auto forward", 1.0, 2.0, 1.0),
        program("auto spatial forward", 0.5, 1.0, 0.5),
        program("auto norms forward", 0.2, 0.4, 0.2),
        program("auto task forward", 0.1, 0.2, 0.1),
        program("lost forward", 1.0, 1.0, 1.0),
    ]
    text = parts.table({"auto": ["spatial", "norms", "task"], "lost": ["task"]}, [programs], (parts.FORWARD,))
    found = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    assert found[2:] == [
        ["auto: spatial", "500.00", "50%"],
        ["auto: norms (in the others)", "200.00", "20%"],
        ["auto: task", "100.00", "10%"],
        ["auto: rest", "400.00", "40%"],
        ["auto: block", "1000.00", "100%"],
    ]
