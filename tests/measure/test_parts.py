"""The modules of a block as programs of their own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dyhead_jax.dyhead import DyHead
from dyhead_jax.measure import block, parts
from dyhead_jax.measure.timing import Program, Setting

SETTING = Setting(1, (16, 16), "float32")


@pytest.fixture(scope="module")
def made():
    """A block with plain convolutions in the place of the deformable ones, its variables and its pyramid."""
    head = DyHead(num_blocks=1, features=4, norm_groups=2, spatial="none")
    pyramid = block.random_pyramid([(2, 2), (1, 1)], 1, 4, jnp.float32)
    return head, head.init(jax.random.key(0), pyramid), pyramid


def test_parts_have_the_arguments_and_the_results_that_they_have_in_the_block(made):
    head, variables, pyramid = made
    jobs = dict(parts.jobs("auto", head, variables, pyramid, SETTING, (parts.FORWARD,)))
    assert [job.name for job in jobs.values()] == [
        "auto spatial forward",
        "auto norms forward",
        "auto scale forward",
        "auto task forward",
    ]
    results = {name: job.function(*job.arguments) for name, job in jobs.items()}
    assert len(results["spatial"]) == 1
    assert len(results["norms"]) == 2 + 1 + 1  # own on two levels, one finer, one coarser
    assert len(results["scale"]) == len(results["task"]) == 2
    whole = head.apply(variables, pyramid)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), results["task"], list(whole))
    (candidates,) = results["spatial"]
    np.testing.assert_allclose(candidates[0][0], results["norms"][0], rtol=1e-5)


def test_gradients_are_those_of_variables_and_inputs(made):
    found = [job for _, job in parts.jobs("auto", *made, SETTING, (parts.BOTH,))]
    for job in found:
        inputs, floats = jax.eval_shape(job.function, *job.arguments)
        shapes = jax.eval_shape(lambda *a: a, *job.arguments[:2])
        assert (inputs, floats) == shapes
    task = found[-1]
    assert task.name == "auto task forward+backward"
    assert set(task.arguments[0]["block_0/task"]["params"]) == {"squeeze", "expand"}


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
