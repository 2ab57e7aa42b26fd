"""A page in the browser for trying a trained model: `python -m dyhead_jax.demo --help`."""
