"""One picture through a detector, with what its DyHead blocks record on the way."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import traverse_util

from dyhead_jax.dyhead.branches import merged
from dyhead_jax.evaluation.trained_model import InferenceModel
from dyhead_jax.inference.batches import make_batches

KINDS = {"mid": "own level", "low": "finer level", "high": "coarser level"}
COEFFICIENTS = ("a1", "b1", "a2", "b2")
TAPS = 9

Sizes = Sequence[tuple[int, int]]  # (height, width) of each level


class RecordError(ValueError):
    """The model has nothing to look at, or not that; the message says what."""


class Kernel(NamedTuple):
    """What drives a deformable 3x3 kernel at each of its outputs: offsets (h, w, 9 g, 2) as (dy, dx) in cells of the
    map that it reads, weights (h, w, 9 g); float32, g deformable groups."""

    offsets: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Block:
    """What one block made of one picture; arrays are float32, levels run fine to coarse.

    after: the map (h_l, w_l, c) of each level that the block returns (the mean of two branches).
    kernels: by kind ("mid", "low", "high") and output level. scale: for each level the weights (n,) of its candidates,
    own level, finer, coarser. task: for each level the coefficients (c,) by name. Empty where nothing was recorded.
    others: whatever else was recorded, by name, without the batch axis.
    """

    after: list[np.ndarray]
    kernels: dict[str, dict[int, Kernel]]
    scale: list[np.ndarray]
    task: list[dict[str, np.ndarray]]
    others: dict[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Record:
    """A picture and what the network made of it.

    image: (h, w, 3) uint8 RGB. size: (height, width) of the resized picture, in the top-left corner of the network's
    input; scale: (y, x), resized over original size. strides: of each level, in pixels of the input.
    before: the map (h_l, w_l, c) of each level that enters the first block.
    """

    image: np.ndarray
    size: tuple[int, int]
    scale: tuple[float, float]
    strides: tuple[int, ...]
    before: list[np.ndarray]
    blocks: list[Block]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """(height, width) of each level."""
        return [(x.shape[0], x.shape[1]) for x in self.before]


class Recorder:
    """Called with a picture (h, w, 3) uint8 RGB of any size it returns a `Record`; compiled once for a canvas.

    Raises RecordError if the model has no DyHead blocks.
    """

    def __init__(self, loaded: InferenceModel):
        model = loaded.model
        self._data = loaded.config.data
        self._variables = jax.device_put(loaded.variables)
        self._strides = tuple(model.strides)

        def is_block(module: Any, method: str) -> bool:
            path = module.path
            return method == "__call__" and len(path) == 2 and path[0] == "dyhead" and path[1].startswith("block")

        def forward(variables: Any, images: jax.Array, sizes: jax.Array) -> tuple[Any, Any]:
            maps, recorded = model.apply(
                variables,
                images,
                sizes,
                method="features",
                mutable=["intermediates"],
                capture_intermediates=is_block,
            )
            return maps["neck"], recorded.get("intermediates", {}).get("dyhead", {})

        self._forward = jax.jit(forward)

    def __call__(self, image: np.ndarray) -> Record:
        (batch,) = make_batches([image], self._data, 1)
        before, recorded = jax.device_get(self._forward(self._variables, batch.images, batch.sizes))
        if not recorded:
            raise RecordError(
                "the model has no DyHead blocks (model.dyhead.num_blocks), so there is nothing to look at"
            )
        maps = [_first(x) for x in before]
        sizes = [(x.shape[0], x.shape[1]) for x in maps]
        height, width = batch.sizes[0].tolist()
        y, x = batch.scales[0].tolist()
        return Record(
            image=image,
            size=(height, width),
            scale=(y, x),
            strides=self._strides,
            before=maps,
            blocks=[read_block(block, sizes) for block in each_block(recorded)],
        )


def each_block(recorded: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The intermediates of each block in order, from those of DyHead; scanned blocks have them with a leading axis."""
    if "blocks" in recorded:
        count = jax.tree.leaves(recorded["blocks"])[0].shape[0]
        return [jax.tree.map(lambda x, i=i: x[i], recorded["blocks"]) for i in range(count)]
    return [recorded[name] for name in sorted(recorded, key=lambda name: int(name.removeprefix("block_")))]


def read_block(recorded: Mapping[str, Any], sizes: Sizes) -> Block:
    """recorded: the intermediates of one block, with a batch axis of 1; sizes: of the levels."""
    flat: dict[Any, Any] = traverse_util.flatten_dict(dict(recorded))
    after = [_first(merged(level)) for level in flat.pop(("__call__",))[0]]
    kernels = {}
    for kind in KINDS:
        found = _kernels(kind, flat.get(("spatial", kind)), sizes)
        if found:
            kernels[kind] = found
            del flat["spatial", kind]
    scale = _scale(flat.get(("scale", "weights")), len(sizes))
    if scale:
        del flat["scale", "weights"]
    task = _task(flat.get(("task", "coefficients")), len(sizes))
    if task:
        del flat["task", "coefficients"]
    others = {}
    for path, calls in flat.items():
        value = calls[0] if isinstance(calls, tuple) and len(calls) == 1 else calls
        for inner, leaf in jax.tree_util.tree_leaves_with_path(value):
            name = "/".join([*path, *filter(None, [jax.tree_util.keystr(inner, simple=True, separator="/")])])
            others[name] = np.asarray(leaf, np.float32)[0] if np.ndim(leaf) else np.asarray(leaf, np.float32)
    return Block(after=after, kernels=kernels, scale=scale, task=task, others=others)


def _kernels(kind: str, calls: Any, sizes: Sizes) -> dict[int, Kernel]:
    """By output level; {} where the recorded value has another form."""
    levels = {"mid": range(len(sizes)), "low": range(1, len(sizes)), "high": range(len(sizes) - 1)}[kind]
    try:
        (value,) = calls
        pairs = zip(value["offsets"], value["weights"], levels, strict=True)
        found = {level: Kernel(_first(offsets), _first(weights)) for offsets, weights, level in pairs}
    except (TypeError, ValueError, KeyError, IndexError):
        return {}
    for level, kernel in found.items():
        grids = [sizes[level], sizes[level + 1]] if kind == "high" else [sizes[level]]
        taps = kernel.weights.shape[-1]
        if kernel.weights.shape[:-1] not in grids or taps % TAPS or kernel.offsets.shape != (*kernel.weights.shape, 2):
            return {}
    return found


def _scale(calls: Any, levels: int) -> list[np.ndarray]:
    if not isinstance(calls, tuple) or len(calls) != levels:
        return []
    weights = [[_first(value) for value in jax.tree.leaves(call)] for call in calls]
    if any(value.size != 1 for level in weights for value in level):
        return []
    return [np.array([value.item() for value in level], np.float32) for level in weights]


def _task(calls: Any, levels: int) -> list[dict[str, np.ndarray]]:
    if not isinstance(calls, tuple) or len(calls) != levels:
        return []
    for call in calls:
        if (
            not isinstance(call, Mapping)
            or set(call) != set(COEFFICIENTS)
            or any(np.ndim(v) != 2 for v in call.values())
        ):
            return []
    return [{name: _first(call[name]) for name in COEFFICIENTS} for call in calls]


def _first(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)[0]
