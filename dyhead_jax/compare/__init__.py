"""Trains several configs with several seeds each, and compares them: `python -m dyhead_jax.compare --help`."""


class CompareError(ValueError):
    """A comparison cannot be made, or some of its runs have failed; the message names the config or the runs."""
