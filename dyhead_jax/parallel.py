"""Devices: how a train step written for one of them runs on all. Nothing else knows `pmap`, meshes or shardings.

    pmap     each device runs the step on its part of the batch; the step averages over `axis_name`
    jit      one program over a mesh sees the whole batch; XLA splits it and inserts the same averages
    single   one device, whatever else there is

All three hold the same whole state on every device and give the same update. In the jit form the step needs no axis and
no `shard_map`, whose default would sum the gradients of replicated parameters a second time.
"""

import collections
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dyhead_jax.steps import TrainStep
from dyhead_jax.types import Detections

AXIS = "batch"
T = TypeVar("T")


class ParallelError(ValueError):
    """A batch that does not fit the devices; the message names the field."""


class Parallel(Protocol):
    """One way to use the devices. "Host" below means NumPy arrays or arrays of this process."""

    axis_name: str | None
    """What the model and the step average over."""
    device_count: int
    """Devices of all processes that a batch is divided among."""

    def replicate(self, tree: Any) -> Any:
        """Copies a host tree to every device, in the form that `train_step` takes."""
        ...

    def unreplicate(self, tree: Any) -> Any:
        """A replicated tree, or a step's metrics, as NumPy copies; waits for them. The inverse of `replicate`."""
        ...

    def put(self, batch: Any) -> Any:
        """This process's part of a batch, (b, ...) host arrays, onto its devices. Returns before the copy ends."""
        ...

    def train_step(self, step: TrainStep) -> TrainStep:
        """Maps a step made with this `axis_name`. The state that goes in is donated: it can not be used again."""
        ...


class Single:
    """One device, `jax.jit`."""

    axis_name: str | None = None

    def __init__(self) -> None:
        self.device = jax.local_devices()[0]
        self.device_count = 1

    def replicate(self, tree: Any) -> Any:
        return jax.device_put(_copies(tree), self.device)

    def unreplicate(self, tree: Any) -> Any:
        return jax.tree.map(np.array, tree)

    def put(self, batch: Any) -> Any:
        return jax.device_put(batch, self.device)

    def train_step(self, step: TrainStep) -> TrainStep:
        return jax.jit(step, donate_argnums=0)


class Pmap:
    """`jax.pmap`: trees have a leading axis of local devices."""

    axis_name: str | None = AXIS

    def __init__(self) -> None:
        self.local_count = jax.local_device_count()
        self.device_count = jax.device_count()
        # The sharding of pmap's own results; another one would be copied at each step.
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self.sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        def stack(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.device_put(np.broadcast_to(x[None], (self.local_count, *x.shape)), self.sharding)

        return jax.tree.map(stack, tree)

    def unreplicate(self, tree: Any) -> Any:
        # The first device's part; indexing the whole array would run a program over all devices.
        return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)

    def put(self, batch: Any) -> Any:
        def split(x: np.ndarray) -> jax.Array:
            return jax.device_put(x.reshape(self.local_count, -1, *x.shape[1:]), self.sharding)

        return jax.tree.map(split, batch)

    def train_step(self, step: TrainStep) -> TrainStep:
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


class Jit:
    """`jax.jit` over a one-dimensional mesh of all devices: state replicated, batch sharded by images."""

    axis_name: str | None = None

    def __init__(self) -> None:
        # By processes, so that each one's rows lie together; jax.make_mesh may mix them for the network's sake.
        devices = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
        self.device_count = len(devices)
        self.mesh = Mesh(np.array(devices), (AXIS,), axis_types=(AxisType.Auto,))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        def place(x: Any) -> jax.Array:
            return jax.make_array_from_process_local_data(self.replicated, np.array(x))

        return jax.tree.map(place, tree)

    def unreplicate(self, tree: Any) -> Any:
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)

    def put(self, batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharded, np.asarray(x)), batch)

    def train_step(self, step: TrainStep) -> TrainStep:
        return jax.jit(
            step,
            in_shardings=(self.replicated, self.sharded),
            out_shardings=self.replicated,
            donate_argnums=0,
        )


def make(kind: str, batch_size: int, accumulate: int = 1) -> Parallel:
    """The form that config.run.parallel names, for a batch of `batch_size` images over all devices.

    Raises ParallelError when the batch does not divide by devices and micro-batches.
    """
    kinds: dict[str, Callable[[], Parallel]] = {"pmap": Pmap, "jit": Jit, "single": Single}
    if kind not in kinds:
        raise ParallelError(f"config.run.parallel is {kind!r}; it may be {', '.join(map(repr, kinds))}")
    if kind == "single" and jax.process_count() > 1:
        raise ParallelError(f"config.run.parallel is 'single', but there are {jax.process_count()} processes")
    parallel = kinds[kind]()
    devices = parallel.device_count
    if batch_size % (devices * accumulate):
        micro = f" times config.optim.accumulate={accumulate}" if accumulate > 1 else ""
        raise ParallelError(f"config.data.batch_size={batch_size} is not a multiple of {devices} devices{micro}")
    return parallel


def map_detect(detect: Callable[[Any, Any, Any], Detections]) -> Callable[[Any, Any, Any], Detections]:
    """The function (variables, images, sizes) -> Detections on this process's devices; returns before they are done.

    Images need nothing from each other, so each device takes its share (b is filled up to a multiple of the devices)
    and other processes do their own images at their own pace. Give it variables from `local_variables`.
    """
    mesh = _local_mesh()
    count = mesh.size
    split = PartitionSpec(AXIS)
    mapped = detect
    if count > 1:
        mapped = jax.shard_map(
            detect, mesh=mesh, in_specs=(PartitionSpec(), split, split), out_specs=split, check_vma=False
        )
    compiled = jax.jit(mapped)

    def run(variables: Any, images: Any, sizes: Any) -> Detections:
        size = images.shape[0]
        fill = -size % count
        if not fill:
            return compiled(variables, images, sizes)
        images = np.concatenate([images, np.repeat(images[:1], fill, axis=0)])
        sizes = np.concatenate([sizes, np.repeat(sizes[:1], fill, axis=0)])
        return jax.tree.map(lambda x: x[:size], compiled(variables, images, sizes))

    return run


def local_variables(variables: Any) -> Any:
    """Host variables, once copied to this process's devices, for many calls of what `map_detect` made."""
    return jax.device_put(_copies(variables), NamedSharding(_local_mesh(), PartitionSpec()))


def prefetch(items: Iterable[T], put: Callable[[T], Any], size: int = 2) -> Iterator[Any]:
    """Yields `put(item)` for each item, `size` items ahead, so that copies overlap with the step."""
    queue: collections.deque[Any] = collections.deque()
    for item in items:
        queue.append(put(item))
        if len(queue) >= size:
            yield queue.popleft()
    yield from queue


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))


def _copies(tree: Any) -> Any:
    """NumPy copies: a device array that aliases its source would be deleted with it when donated."""
    return jax.tree.map(np.array, tree)
