"""From a record to the sections of the page."""

import re
from collections.abc import Sequence

import numpy as np

from dyhead_jax.look import charts, overlays
from dyhead_jax.look.page import Picture, Section
from dyhead_jax.look.record import KINDS, Record
from dyhead_jax.look.taps import at_cell, cell_at, compose

_DCN = "Dai et al., Deformable Convolutional Networks, 2017, figure of sampling locations"


def sections(
    record: Record, point: tuple[float, float], level: int, box: Sequence[float] | None
) -> tuple[list[Section], list[str]]:
    """The sections of the page, and a line for each thing that is not shown.

    point: (x, y) in pixels of the picture; level: whose cell at the point is looked at; box: x1 y1 x2 y2, also drawn.
    """
    found, notes = [], []
    for section in (_taps(record, point, level, box), _scale(record), _task(record)):
        if isinstance(section, Section):
            found.append(section)
        else:
            notes.append(section)
    found.append(_maps(record))
    own, missing = _others(record)
    return found + own, notes + missing


def _taps(record: Record, point: tuple[float, float], level: int, box: Sequence[float] | None) -> Section | str:
    blocks, sizes, stride = record.blocks, record.sizes, record.strides[level]
    cell = cell_at(record, level, point)
    kinds = [kind for kind in KINDS if all(level in block.kernels.get(kind, {}) for block in blocks)]
    if not kinds:
        return f"Samples of deformable kernels: the spatial attention records none at level {level}"
    taps = [{kind: at_cell(block, kind, level, cell, sizes) for kind in kinds} for block in blocks]
    region = overlays.region_of(record, [group for own in taps for group in own.values()], point, stride)
    pictures = [Picture("point.png", overlays.where(record, point, box, region), "The point, and the part shown below")]
    for number, own in enumerate(taps, 1):
        png = overlays.block_taps(record, own, point, region)
        pictures.append(Picture(f"taps_block_{number}.png", png, f"Block {number}"))
    steps = {KINDS[kinds[0]]: compose(blocks, kinds[:1], level, cell, sizes)}
    if len(kinds) > 1:
        steps["all levels"] = compose(blocks, kinds, level, cell, sizes)
    wide = overlays.region_of(record, [step.taps for own in steps.values() for step in own], point, stride)
    png = overlays.composed_taps(record, steps, point, wide)
    pictures.append(Picture("taps_composed.png", png, "Through several blocks, the weight multiplied along the way"))
    says = (
        f"To compute its features at the point (green cross; level of stride {stride}), each block reads the maps of"
        " this and the neighbouring levels at these places, each with the weight of its colour."
    )
    return Section("Where the spatial attention reads", says, f"paper, equation 4; {_DCN}", pictures)


def _scale(record: Record) -> Section | str:
    if not all(block.scale for block in record.blocks):
        return "Weights of the levels: the scale attention records none"
    counts = [[len(weights) for weights in block.scale] for block in record.blocks]
    if any(own != counts[0] for own in counts):
        return "Weights of the levels: blocks differ in their number of candidates"
    says = (
        "How much each level takes from itself and from its neighbours: the weight of every candidate map in the mean,"
        " for this picture."
    )
    source = "paper, equation 3, and its figure of learned scale ratios"
    picture = Picture("scale_weights.png", charts.scale_weights(record, record.blocks), "Weights by level and block")
    return Section("How the scale attention weighs the levels", says, source, [picture])


def _task(record: Record) -> Section | str:
    if not all(block.task for block in record.blocks):
        return "Coefficients of the channels: the task attention records none"
    says = (
        "Every channel x becomes the larger of a1 x + b1 and a2 x + b2: where a1 is small the channel is turned down,"
        " and where the two slopes differ it is bent, as by a ReLU."
    )
    shows = "Coefficients by block and level; channels from left to right by their slope a1"
    picture = Picture("task_coefficients.png", charts.task_coefficients(record, record.blocks), shows)
    return Section(
        "How the task attention switches channels",
        says,
        "paper, equation 5; Chen et al., Dynamic ReLU, 2020",
        [picture],
    )


def _maps(record: Record) -> Section:
    says = (
        "How strong the features are at each place (root mean square over channels) before the first block and after"
        " each; every panel is coloured from its own smallest to its own largest value."
    )
    picture = Picture("maps.png", overlays.maps(record), "Features by level, before and after each block")
    return Section(
        "What the blocks make of the pyramid", says, "paper, figure of feature maps before and after blocks", [picture]
    )


def _others(record: Record) -> tuple[list[Section], list[str]]:
    """Pictures of whatever else was recorded: one for each name, with all blocks."""
    pictures, notes = [], []
    for name in dict.fromkeys(name for block in record.blocks for name in block.others):
        values = [(i, block.others[name]) for i, block in enumerate(record.blocks, 1) if name in block.others]
        level_of = {size: level for level, size in enumerate(record.sizes)}
        array = values[0][1]
        file = f"recorded_{re.sub(r'[^A-Za-z0-9]+', '_', name).strip('_')}.png"
        if any(not np.isfinite(value).all() for _, value in values):
            notes.append(f"{name}: recorded with values that are not finite")
        elif array.shape[:2] in level_of:
            titled = [(f"block {i}", level_of[value.shape[:2]], value) for i, value in values]
            pictures.append(Picture(file, overlays.recorded_maps(record, titled), name))
        elif array.ndim == 1 or (array.ndim > 1 and array.size == max(array.shape)):
            png = charts.vectors([(f"block {i}", value.ravel()) for i, value in values])
            pictures.append(Picture(file, png, name))
        elif array.ndim == 0:
            notes.append(f"{name}: " + ", ".join(f"{value.item():.4g}" for _, value in values) + " (by block)")
        else:
            notes.append(f"{name}: recorded {list(array.shape)}, neither a map of a level nor a vector")
    if not pictures:
        return [], notes
    says = "What else the attentions record: maps as the root mean square over their further axes, vectors as bars."
    return [Section("Recorded by this model's own attentions", says, "", pictures)], notes
