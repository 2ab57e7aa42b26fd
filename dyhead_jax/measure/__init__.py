"""python -m dyhead_jax.benchmark: what the models cost. One file a command."""
