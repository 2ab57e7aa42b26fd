"""The schema of an experiment: nested dataclasses with a field for each option.

A config file is Python with `get_config() -> Config`. The dataclasses have slots, so a misspelt name fails in the file
as well as on the command line (`--config.a.b=v`, ml_collections.config_flags). The nodes `model.backbone`,
`model.neck`, `model.dyhead` with its attentions, `model.head` and `data.source` name a class in `module`; the other
fields of such a node are the options of that class (see `nodes`). `validate` runs after the overrides.
"""

from dyhead_jax.config.backbones import EfficientNetLiteConfig, ResNetConfig, SwinConfig
from dyhead_jax.config.data import CocoFolderConfig, CocoRecordsConfig, DataConfig, PhotosConfig, ShapesConfig
from dyhead_jax.config.detectors import (
    ATSSConfig,
    BorderDetConfig,
    FasterRCNNConfig,
    FCOSConfig,
    RepPointsConfig,
    RetinaNetConfig,
)
from dyhead_jax.config.errors import ConfigError
from dyhead_jax.config.evaluation import EvaluationConfig
from dyhead_jax.config.experiment import Config, ModelConfig, OptimConfig, RunConfig
from dyhead_jax.config.nodes import make_node
from dyhead_jax.config.pyramid import DyHeadConfig, FPNConfig
from dyhead_jax.config.serialization import from_json, from_tree, load_file, packages, parse, to_json
from dyhead_jax.config.validation import unused, validate, validate_stored

__all__ = [
    "ATSSConfig",
    "BorderDetConfig",
    "CocoFolderConfig",
    "CocoRecordsConfig",
    "Config",
    "ConfigError",
    "DataConfig",
    "DyHeadConfig",
    "EfficientNetLiteConfig",
    "EvaluationConfig",
    "FCOSConfig",
    "FPNConfig",
    "FasterRCNNConfig",
    "ModelConfig",
    "OptimConfig",
    "PhotosConfig",
    "RepPointsConfig",
    "ResNetConfig",
    "RetinaNetConfig",
    "RunConfig",
    "ShapesConfig",
    "SwinConfig",
    "from_json",
    "from_tree",
    "load_file",
    "make_node",
    "packages",
    "parse",
    "to_json",
    "unused",
    "validate",
    "validate_stored",
]
