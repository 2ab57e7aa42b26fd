"""Runs a train step that was written for one device on all devices. Only this file knows `pmap`, meshes and shardings.

    pmap     each device runs the step on its part of the batch; the step averages over `axis_name`
    jit      one program over a mesh sees the whole batch; XLA splits it and inserts the same averages
    single   one device, even if there are more

All three give the same update. All keep the whole state on every device, except jit with `shard_state` above 1, which
divides it over a second mesh axis (ZeRO: Rajbhandari et al. 2020). With jit the step needs no axis name, and no
`shard_map`, whose default would sum the gradients of replicated parameters a second time.
"""

import collections
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from dyhead_jax.config.training_choices import ParallelKind
from dyhead_jax.training.steps import TrainStep
from dyhead_jax.types import Detections

AXIS, STATE_AXIS = "batch", "state"
T = TypeVar("T")


class ParallelError(ValueError):
    """The batch does not fit the devices; the message names the field."""


class Parallel(Protocol):
    """A way to use the devices. "Host" trees below hold NumPy arrays or arrays local to this process."""

    axis_name: str | None
    """The mapped axis over which the model and the step average."""
    device_count: int
    """Number of devices, over all processes, that share a batch."""

    def replicate(self, tree: Any) -> Any:
        """Copies a host tree to every device, laid out for `train_step`."""
        ...

    def unreplicate(self, tree: Any) -> Any:
        """A replicated tree, or a step's metrics, as NumPy copies; blocks until ready. The inverse of `replicate`."""
        ...

    def put(self, batch: Any) -> Any:
        """Copies this process's part of a batch, (b, ...) host arrays, to its devices. Returns before the copy ends."""
        ...

    def train_step(self, step: TrainStep) -> TrainStep:
        """Maps a step made with this `axis_name`. The input state is donated: it cannot be used again."""
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
    """`jax.pmap`: arrays have a leading axis of local devices."""

    axis_name: str | None = AXIS

    def __init__(self) -> None:
        self.local_count = jax.local_device_count()
        self.device_count = jax.device_count()
        # The sharding of pmap's own results; any other would cost a copy at each step.
        mesh = Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))
        self.sharding = NamedSharding(mesh, PartitionSpec(AXIS))

    def replicate(self, tree: Any) -> Any:
        def stack(x: Any) -> jax.Array:
            x = np.asarray(x)
            return jax.device_put(np.broadcast_to(x[None], (self.local_count, *x.shape)), self.sharding)

        return jax.tree.map(stack, tree)

    def unreplicate(self, tree: Any) -> Any:
        # The first device's shard; indexing the array itself would run a program on all devices.
        return jax.tree.map(lambda x: np.array(x.addressable_shards[0].data)[0], tree)

    def put(self, batch: Any) -> Any:
        def split(x: np.ndarray) -> jax.Array:
            return jax.device_put(x.reshape(self.local_count, -1, *x.shape[1:]), self.sharding)

        return jax.tree.map(split, batch)

    def train_step(self, step: TrainStep) -> TrainStep:
        return jax.pmap(step, axis_name=AXIS, donate_argnums=0)


class Jit:
    """`jax.jit` over a mesh of all devices: the batch is sharded by images, the state replicated or sharded.

    The mesh is n / shard_state x shard_state devices. Images are sharded over both mesh axes. Each array of the state
    is sharded over the second one, along its longest axis that `shard_state` divides, or replicated if there is none.
    """

    axis_name: str | None = None

    def __init__(self, devices: Sequence[Any] | None = None, shard_state: int = 1) -> None:
        """devices: default all; those of another machine allow `train_step(...).lower` to compile for it."""
        # Sorted by process, so that its rows are contiguous; jax.make_mesh may reorder devices for the network.
        devices = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
        self.device_count, self.shard_state = len(devices), shard_state
        grid = np.array(devices).reshape(-1, shard_state)
        self.mesh = Mesh(grid, (AXIS, STATE_AXIS), axis_types=(AxisType.Auto, AxisType.Auto))
        self.replicated = NamedSharding(self.mesh, PartitionSpec())
        self.sharded = NamedSharding(self.mesh, PartitionSpec((AXIS, STATE_AXIS)))

    def state_sharding(self, shape: tuple[int, ...]) -> NamedSharding:
        """The sharding of a state array of this shape."""
        fitting = [axis for axis, size in enumerate(shape) if size and size % self.shard_state == 0]
        if self.shard_state == 1 or not fitting:
            return self.replicated
        axis = max(fitting, key=lambda axis: shape[axis])
        return NamedSharding(self.mesh, PartitionSpec(*[None] * axis, STATE_AXIS))

    def replicate(self, tree: Any) -> Any:
        def place(x: Any) -> jax.Array:
            x = np.array(x)
            return jax.make_array_from_callback(x.shape, self.state_sharding(x.shape), lambda index: x[index])

        return jax.tree.map(place, tree)

    def unreplicate(self, tree: Any) -> Any:
        if self.shard_state > 1:
            tree = jax.jit(lambda x: x, out_shardings=self.replicated)(tree)
        return jax.tree.map(lambda x: np.array(x.addressable_data(0)), tree)

    def put(self, batch: Any) -> Any:
        return jax.tree.map(lambda x: jax.make_array_from_process_local_data(self.sharded, np.asarray(x)), batch)

    def train_step(self, step: TrainStep) -> TrainStep:
        if self.shard_state == 1:
            shardings = {"in_shardings": (self.replicated, self.sharded), "out_shardings": self.replicated}
            return jax.jit(step, **shardings, donate_argnums=0)

        def divided(state: Any, batch: Any) -> Any:
            state, metrics = step(state, batch)
            constrain = lambda x: jax.lax.with_sharding_constraint(x, self.state_sharding(x.shape))  # noqa: E731
            return jax.tree.map(constrain, (state, metrics))

        return jax.jit(divided, donate_argnums=0)


def make(kind: str, batch_size: int, accumulate: int = 1, shard_state: int = 1) -> Parallel:
    """What config.run.parallel names, for a batch of `batch_size` images over all devices.

    Raises ParallelError if the batch is not a multiple of devices times micro-batches, or the number of devices not one
    of `shard_state`.
    """
    try:
        kind = ParallelKind.parse("config.run.parallel", kind)
    except ValueError as error:
        raise ParallelError(str(error)) from None
    if kind == ParallelKind.SINGLE and jax.process_count() > 1:
        raise ParallelError(f"config.run.parallel is 'single', but there are {jax.process_count()} processes")
    if shard_state > 1 and (kind != ParallelKind.JIT or jax.device_count() % shard_state):
        raise ParallelError(
            f"config.run.shard_state is {shard_state}; that needs config.run.parallel='jit' (it is {kind!r})"
            f" and a multiple of {shard_state} devices (there are {jax.device_count()})"
        )
    parallel: Parallel
    if kind == ParallelKind.JIT:
        parallel = Jit(shard_state=shard_state)
    else:
        parallel = Pmap() if kind == ParallelKind.PMAP else Single()
    devices = parallel.device_count
    if batch_size % (devices * accumulate):
        micro = f" times config.optim.accumulate={accumulate}" if accumulate > 1 else ""
        raise ParallelError(f"config.data.batch_size={batch_size} is not a multiple of {devices} devices{micro}")
    return parallel


def map_detect(detect: Callable[[Any, Any, Any], Detections]) -> Callable[[Any, Any, Any], Detections]:
    """Maps (variables, images, sizes) -> Detections over this process's devices; the result returns asynchronously.

    Images are independent, so each device takes a share (b is padded to a multiple of the devices), and no process
    waits for another. Pass variables from `local_variables`.
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
    """Host variables copied to this process's devices, to be reused in many calls of a `map_detect` function."""
    return jax.device_put(_copies(variables), NamedSharding(_local_mesh(), PartitionSpec()))


def prefetch(items: Iterable[T], put: Callable[[T], Any], ahead: int = 1) -> Iterator[Any]:
    """Yields `put(item)` for each item once `ahead` more items have been put, so that copies overlap with the steps."""
    queue: collections.deque[Any] = collections.deque()
    for item in items:
        queue.append(put(item))
        if len(queue) > ahead:
            yield queue.popleft()
    yield from queue


def _local_mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), (AXIS,), axis_types=(AxisType.Auto,))


def _copies(tree: Any) -> Any:
    """NumPy copies: if a device array aliased its source, donating it would delete the source too."""
    return jax.tree.map(np.array, tree)
