"""Trained models as files for other programs: `python -m dyhead_jax.export`. One file a format."""
