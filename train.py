"""Trains a detector: `python train.py --config=FILE --workdir=DIR`, the same as `python -m dyhead_jax.train`.

The loop is `dyhead_jax/train.py`; `python train.py --help` explains all of it.
"""

from dyhead_jax import command

if __name__ == "__main__":  # loader processes import this file too
    command.starting()
from dyhead_jax.train import main

if __name__ == "__main__":
    command.run(main)
