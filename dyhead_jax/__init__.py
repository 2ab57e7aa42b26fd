"""Dynamic Head (CVPR 2021) for object detection, in JAX and Flax Linen.

Read in the order of the data: `config`, `types`, `data`, `backbones`, `necks`, `dyhead`, `detectors`, `evaluate`.
"""

__version__ = "0.1.0"
