"""Dynamic Head (CVPR 2021) for object detection, in JAX and Flax Linen.

To read the code, follow the data: `config`, `types`, `data`, `backbones`, `necks`, `dyhead`, `detectors`, `evaluate`.
"""

__version__ = "0.1.0"
