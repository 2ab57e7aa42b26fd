"""`python -m dyhead_jax.train` with the tiny detector: SECONDS_A_STEP --config=... ..."""

import sys

import dyhead_jax  # noqa: F401
from dyhead_jax import command

if __name__ == "__main__":
    command.starting()

from dyhead_jax import train
from tests.training import distributed_run

if __name__ == "__main__":
    distributed_run.tiny()
    distributed_run.slow(float(sys.argv.pop(1)))
    command.run(train.main)
