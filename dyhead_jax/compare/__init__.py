"""Trains several configs with several seeds each, and compares them: `python -m dyhead_jax.compare --help`."""
