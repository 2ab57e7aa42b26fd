"""Checkpoints of a run, written with Orbax: <workdir>/checkpoints/<step>/ with six items.

    variables   {"params", "batch_stats"}: the weights of the model
    average     the same, averaged over steps; only with config.optim.ema
    optimizer   the optimiser state and the step
    data        the position of the input iterator, one small file per process
    meta        JSON: config, class names, category ids, evaluation
    digests     JSON: a digest of each array and of meta

Arrays are stored whole, without device placement, so a run can resume on a different number of devices. A save goes to
a temporary folder that is renamed when complete, is read back, and only then are older ones deleted: a kill at any
moment leaves an intact checkpoint. What is read is compared with the digests; checkpoints of earlier versions have none
and open without.
"""

import json
import os
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointHandler, CheckpointRestore, CheckpointSave
from jax.experimental import multihost_utils

from dyhead_jax.command import one_line, real
from dyhead_jax.config import Config, to_json
from dyhead_jax.training import digests, stored
from dyhead_jax.training.steps import TrainState
from dyhead_jax.training.stored import CheckpointError, DamagedError

T = TypeVar("T")

_REMOVED = "removed"  # old checkpoints are renamed into this folder first, then deleted file by file


class Checkpoints:
    """The checkpoints in a folder: the last `max_to_keep`, plus the one with the best AP.

    Opening a folder for writing deletes the remains of killed saves. Use it as a context manager or call `close`, which
    waits for the current save. Raises CheckpointError for a folder with a name that Orbax cannot read again.
    """

    def __init__(self, folder: str | Path, *, max_to_keep: int = 3, read_only: bool = False):
        self.folder = real(Path(folder))
        stored.check_name(self.folder)
        self._keep = max_to_keep
        self._scores: dict[int, float | None] = {}
        self._read_only = read_only
        self._pending: int | None = None  # the step of a save that has not been read back
        self._clear_removed()  # left by a killed run
        self._manager: Any = None
        self._quiet = ExitStack()
        if not read_only:
            self._quiet.enter_context(stored.quiet())
            options = ocp.CheckpointManagerOptions(cleanup_tmp_directories=True, create=True)
            self._manager = ocp.CheckpointManager(self.folder, options=options)

    def _at(self, step: int) -> Path:
        return self.folder / str(step)

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return stored.steps_in(self.folder)

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def newest(self, read: Callable[[int], T]) -> T:
        """What `read(step)` returns for the newest checkpoint that is not damaged; the damaged ones that are newer are
        named on standard error. Raises CheckpointError if there is no other."""
        steps = self.steps()
        if not steps:
            raise CheckpointError(f"{self.folder} has no complete checkpoint")
        for step, before in zip(reversed(steps), [*reversed(steps[:-1]), None], strict=True):
            try:
                return read(step)
            except DamagedError as error:
                if before is None:
                    raise
                print(f"warning: {one_line(error)}; step {before} is used instead", file=sys.stderr, flush=True)
        raise AssertionError("the last one returns or raises")

    def newest_intact(self) -> int | None:
        """The step of the newest checkpoint that is not damaged, None if there is no checkpoint. Reads it whole.

        Damaged ones that are newer are renamed to damaged_<step>, so that the run can save these steps anew.
        """

        def whole(step: int) -> int:
            stored.verify(self._at(step))
            return step

        if not self.steps():
            return None
        intact = self.newest(whole)
        for step in self.steps():
            if step > intact:
                shutil.rmtree(self.folder / f"damaged_{step}", ignore_errors=True)
                os.rename(self._at(step), self.folder / f"damaged_{step}")
        return intact

    def save(
        self,
        state: TrainState,
        meta: dict[str, Any],
        *,
        data_state: dict[str, Any] | None = None,
    ) -> None:
        """Starts a save and returns; a thread does the rest. Saving a step that is already saved does nothing.

        state: host arrays that nobody modifies. meta: from `make_meta`. data_state: `get_state()` of the input iterator
        at this step. Raises CheckpointError if it, or the save before it, cannot be written.
        """
        step = int(state.step)
        self.wait()
        # before the others look at the folder, process 0 has deleted old ones
        multihost_utils.sync_global_devices("old checkpoints are deleted")
        if step in self.steps():
            return
        trees = {
            "variables": {"params": state.params, "batch_stats": state.batch_stats},
            "optimizer": _optimizer(state),
        }
        if state.average is not None:
            trees["average"] = state.average
        items: dict[str, Any] = {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        if data_state is not None:
            items["data"] = CheckpointSave(_Position(data_state))
        if jax.process_index() == 0:  # which alone writes it
            written: dict[str, Any] = {name: digests.of_tree(tree) for name, tree in trees.items()}
            written |= {"meta": digests.of_json(json.loads(json.dumps(meta)))}
            written |= {} if data_state is None else {"position": digests.of_json(data_state)}
        else:
            written = {}
        items |= {"meta": ocp.args.JsonSave(meta), "digests": ocp.args.JsonSave(written)}
        self._pending = step
        with self._writing():
            self._manager.reload()  # folders were removed beside it
            self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def poll(self) -> None:
        """Notices at once when a save has failed, and ends one that is complete. Cheap; to be called at every step.

        Raises CheckpointError.
        """
        if self._pending is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def wait(self) -> None:
        """Waits until the current save is complete, reads it back, and deletes those that are not kept.

        Raises CheckpointError if it cannot be written or read; then nothing is deleted.
        """
        if self._manager is None:
            return
        step, self._pending = self._pending, None
        with self._writing():
            self._manager.wait_until_finished()
        if step is None or jax.process_index() != 0:
            return
        if step not in self.steps():
            raise CheckpointError(f"{self._at(step)}: the checkpoint was written but is not there")
        stored.verify(self._at(step))
        self._delete_old()

    def restore(self, step: int, like: TrainState, iterator: Any = None) -> tuple[TrainState, bool]:
        """The state at a step, as host arrays, and whether the iterator's position was restored.

        like: a state of the same run, without a device axis, such as `steps.abstract_state`; arrays may be
        jax.ShapeDtypeStruct, but its seed is taken as it is. iterator: a grain iterator; its position is missing
        (False) if the run had a different number of processes.
        Raises CheckpointError.
        """
        variables = self._arrays(step, "variables", {"params": like.params, "batch_stats": like.batch_stats})
        optimizer = self._arrays(step, "optimizer", _optimizer(like))
        average = None if like.average is None else self._arrays(step, "average", like.average)
        if int(optimizer["step"]) != step:
            raise DamagedError(f"{self._at(step)}: it holds the state of step {int(optimizer['step'])}")
        state = TrainState(
            step=optimizer["step"],
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer["opt_state"],
            average=average,
            seed=np.asarray(like.seed, np.uint32),
        )
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
        path = self._at(step) / "data" / name
        has_position = iterator is not None and path.exists()
        if has_position:
            stored.restore(self._at(step), "data", CheckpointHandler(), CheckpointRestore(iterator))
        return state, has_position

    def variables(self, step: int, like: Any, *, average: bool) -> Any:
        """Only {"params", "batch_stats"} of a checkpoint, averaged if `average`. Raises CheckpointError."""
        return self._arrays(step, "average" if average else "variables", like)

    def meta(self, step: int) -> dict[str, Any]:
        """The saved meta. Raises CheckpointError if it is damaged or one of its values has the wrong type."""
        return stored.meta(self._at(step))

    def close(self) -> None:
        if self._manager is None:
            return
        try:
            self.wait()
        finally:
            with self._writing():
                self._manager.close()
            self._clear_removed()
            self._quiet.__exit__(*sys.exc_info())

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, kind: Any, *exc: object) -> None:
        if kind is None:
            self.close()
            return
        with suppress(CheckpointError):  # the error on its way out is the one to see
            self.close()

    def _delete_old(self) -> None:
        """Orbax would delete them before the new one was read back, and its own best-of policy forgets the scores when
        a run resumes. Process 0 alone does it."""
        steps = self.steps()
        kept = set(steps[-self._keep :])
        scores = {step: score for step in steps if (score := self._score(step)) is not None}
        if scores:
            kept.add(max(scores, key=lambda step: (scores[step], step)))
        removed = self.folder / _REMOVED
        for step in steps:
            if step not in kept:
                removed.mkdir(exist_ok=True)
                os.rename(self._at(step), removed / str(step))
        self._clear_removed()

    def _clear_removed(self) -> None:
        """Deletes the files of removed checkpoints: a kill in the middle of deleting a checkpoint in place would leave
        a folder that looks complete but is not."""
        if not self._read_only and jax.process_index() == 0:
            shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)

    def _score(self, step: int) -> float | None:
        if step not in self._scores:
            try:
                evaluation = self.meta(step).get("evaluation") or {}
            except CheckpointError:  # it is named where it is to be used
                evaluation = {}
            self._scores[step] = evaluation.get("AP")
        return self._scores[step]

    def _arrays(self, step: int, item: str, like: Any) -> Any:
        """An item in the form of `like`, as host arrays of its dtypes."""
        where = self._at(step)
        arrays = stored.arrays(where, item)
        wanted = digests.named(like)
        for name in [*wanted, *arrays]:
            if name not in wanted or name not in arrays:
                lacking = "the checkpoint" if name in wanted else "the model"
                raise CheckpointError(f"{where}: '{item}': {lacking} has no {name}; it is of another model")
            if arrays[name].shape != wanted[name].shape:
                raise CheckpointError(
                    f"{where}: {name} has shape {arrays[name].shape}, but the model needs {wanted[name].shape}"
                )
        leaves = [np.asarray(arrays[name], leaf.dtype) for name, leaf in wanted.items()]
        return jax.tree.unflatten(jax.tree.structure(like), leaves)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # Orbax and TensorStore raise many types
            raise CheckpointError(f"{self.folder}: a checkpoint cannot be written: {_reason(error)}") from error


def make_meta(
    config: Config,
    class_names: tuple[str, ...],
    category_ids: tuple[int, ...],
    evaluation: dict[str, float] | None = None,
) -> dict[str, Any]:
    """The meta of a checkpoint, as `load_for_inference` needs it. class_names and category_ids are indexed by label."""
    return {
        "config": json.loads(to_json(config)),
        "class_names": list(class_names),
        "category_ids": [int(i) for i in category_ids],
        "evaluation": evaluation,
    }


def _optimizer(state: TrainState) -> dict[str, Any]:
    return {"step": state.step, "opt_state": state.opt_state}


def _reason(error: BaseException) -> str:
    """The system's words, if a call failed, in place of the report around them."""
    text = one_line(error)
    found = re.search(r"\b(No space left on device|Read-only file system|Permission denied|File too large)\b", text)
    return found[0] if found else text[:300]


class _Position:
    """Stands in for the iterator at an earlier step; the real one has read ahead."""

    def __init__(self, state: dict[str, Any]):
        self._state = state

    def get_state(self) -> bytes:
        return json.dumps(self._state, indent=4).encode()
