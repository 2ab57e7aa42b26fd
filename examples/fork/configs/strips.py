"""Drawn shapes with strips in the place of deformable sampling, and a gate for each branch in that of the dynamic ReLU.

Everything else is dyhead_jax's `demo_shapes`; `:shipped` is `demo_shapes` itself, to compare with.

    python -m dyhead_jax.train --config=configs/strips.py --workdir=runs/strips
    python -m dyhead_jax.train --config=configs/strips.py --workdir=runs/long --config.model.dyhead.spatial.points=9
    python -m dyhead_jax.train --config=configs/strips.py:shipped --workdir=runs/shipped
"""

from dyhead_jax.config import Config, flags, recipes


def get_config(kind: str = "strips") -> Config:
    """kind: "strips" or "shipped". Raises ConfigError for another."""
    config = flags.load_file("demo_shapes")
    if recipes.chosen(kind, ("strips", "shipped")) == "strips":
        config.model.dyhead.spatial = "strip_head.strips:StripAttention"
        config.model.dyhead.spatial.points = 7
        config.model.dyhead.task = "strip_head.gates:SqueezeGates"
    return config
