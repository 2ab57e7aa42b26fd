"""The commands of `python -m dyhead_jax.benchmark`, one a file, and what they share: part of the package.

The folder `benchmarks/` beside the package is something else: scripts for single questions, run by hand, and the dated
results of both.
"""
