"""A grid of experiments on your own photographs: any detector with DyHead, without it, or with some attentions.

    python -m dyhead_jax.compare photos_grid:FOLDER,atss,plain photos_grid:FOLDER,atss --workdir=runs/grid
    python train.py --config=configs/photos_grid.py:FOLDER,fcos,scale,task --workdir=runs/fcos
    python train.py --config=configs/photos_grid.py:FOLDER,atss,4 --workdir=runs/four

Data, canvas, steps, backbone (Lite0) and optimizer are those that `photos.py` chooses for the folder, so they are the
same in every cell; the detector and its attentions are those of `shapes_grid.py`, whose text follows the folder. A
number at the end is that of DyHead blocks, in place of two. The norms of DyHead start with other scales, chosen on one
set of photographs of cells (benchmarks/results/photos_bccd_why.md).
"""

from pathlib import Path

from dyhead_jax.config import ATSSConfig, Config, ConfigError, RetinaNetConfig
from dyhead_jax.config.flags import load_file


def get_config(text: str = "") -> Config:
    """text: FOLDER,DETECTOR, then what shapes_grid.py takes, then the blocks. Raises ConfigError for others."""
    words = text.split(",")
    # the longest beginning that is a folder, whose name may have commas
    end = next((n for n in range(len(words), 0, -1) if Path(",".join(words[:n])).is_dir()), 1)
    folder, cell = ",".join(words[:end]), words[end:]
    if not folder or not cell:
        raise ConfigError("give the folder of the photographs and a detector: --config=photos_grid:FOLDER,atss")
    blocks = int(cell.pop()) if len(cell) > 1 and cell[-1].isdecimal() else None
    if blocks == 0 or (blocks and "plain" in cell):
        raise ConfigError(f":{text}: without DyHead it is :{folder},{cell[0]},plain")
    model = load_file(f"shapes_grid:{','.join(cell)}").model
    config = load_file(f"photos:{folder}")
    config.model.dyhead = model.dyhead
    # A few hundred steps of Adam learn more with large features, and FCOS and Faster R-CNN where each level starts
    # mostly with its own map. Without the scale attention features leave a block twice as large.
    config.model.dyhead.norm_scale = 7.0 if model.dyhead.scale == "none" else 14.0
    config.model.dyhead.neighbour_scale = 0.25
    if blocks:
        config.model.dyhead.num_blocks = blocks
    if isinstance(model.head, ATSSConfig):
        config.model.head.towers = model.head.towers  # anchors as in photos.py
    else:
        config.model.head = model.head
    if isinstance(config.model.head, RetinaNetConfig):
        config.model.head.anchor_base = 2.0  # half of the reference's, as in ATSS and Faster R-CNN
    return config
