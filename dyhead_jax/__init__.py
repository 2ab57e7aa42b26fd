"""Dynamic Head (CVPR 2021) for object detection, in JAX and Flax Linen.

    import dyhead_jax
    model = dyhead_jax.load("runs/mine")
    found = model("photo.jpg")    # found.boxes, found.scores, found.names, found.draw()

To read the code, follow the data: `config`, `types`, `data`, `backbones`, `necks`, `dyhead`, `detectors`, `evaluate`.
"""

import sys
from collections.abc import Sequence
from os import PathLike
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dyhead_jax.inference.model import Model

if sys.argv[:1] == ["-m"] and any(word.startswith("dyhead_jax.") for word in sys.orig_argv):
    import signal  # `python -m dyhead_jax.train`, whose imports take seconds

    signal.signal(signal.SIGINT, signal.SIG_DFL)
    from dyhead_jax import command

    command.starting()

__version__ = "0.1.0"


def load(
    source: str | PathLike[str], step: int | None = None, *, batch_size: int = 1, trust: Sequence[str] = ()
) -> "Model":
    """A trained model, to be called with pictures.

    source: the workdir of a run, or a folder that `python -m dyhead_jax.export --format safetensors` wrote (or its
    model.safetensors). step: of a checkpoint of the run; None is the latest. batch_size: how many pictures of a list go
    through the network at a time; above 1 pays on GPUs and TPUs. trust: packages of your own whose classes its config
    may name, which imports them; it may name those of this package anyway.
    Raises CheckpointError, ExportedFolderError or ConfigError, which name the file or folder.
    """
    from dyhead_jax.inference.model import load as load_model  # JAX takes a second to import

    return load_model(source, step, batch_size=batch_size, trust=trust)
