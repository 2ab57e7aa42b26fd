"""Checkpoints of a run, written with Orbax: <workdir>/checkpoints/<step>/ with five items.

    variables   {"params", "batch_stats"}: the weights of the model
    average     the same, averaged over steps; only with config.optim.ema
    optimizer   the optimiser state and the step
    data        the position of the input iterator, one small file per process
    meta        JSON: config, class names, category ids, evaluation

Arrays are stored whole, without device placement, so a run can resume on a different number of devices. A save goes to
a temporary folder that is renamed when complete: a kill at any moment leaves the earlier checkpoints intact.
"""

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from grain.checkpoint import CheckpointRestore, CheckpointSave

from dyhead_jax.command import one_line
from dyhead_jax.config import Config, to_json
from dyhead_jax.training.steps import TrainState

_REMOVED = "removed"  # old checkpoints are renamed into this folder first, then deleted file by file


class CheckpointError(ValueError):
    """A checkpoint is missing, broken or of another model; the message names its folder."""


class Checkpoints:
    """The checkpoints in a folder: the last `max_to_keep`, plus the one with the best AP.

    Opening a folder for writing deletes the remains of killed saves. Use it as a context manager or call `close`, which
    waits for the current save.
    """

    def __init__(self, folder: str | Path, *, max_to_keep: int = 3, read_only: bool = False):
        self.folder = Path(folder).resolve()
        self._scores: dict[int, float] = {}
        self._read_only = read_only
        self._clear_removed()  # left by a killed run
        self._manager = ocp.CheckpointManager(
            self.folder,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=_LastAndBest(max_to_keep, self._scores),
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                todelete_subdir=None if read_only else _REMOVED,
                save_root_metadata=not read_only,
            ),
        )
        if not read_only:
            for step in self.steps():
                self._note(step, self.meta(step))

    def steps(self) -> list[int]:
        """Steps of the complete checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        return max(self.steps(), default=None)

    def save(
        self,
        state: TrainState,
        meta: dict[str, Any],
        *,
        data_state: dict[str, Any] | None = None,
    ) -> None:
        """Starts a save and returns; a thread does the rest. Saving a step that is already saved does nothing.

        state: host arrays that nobody modifies. meta: from `make_meta`. data_state: `get_state()` of the input iterator
        at this step.
        """
        step = int(state.step)
        if step in self.steps():
            return
        items: dict[str, Any] = {
            "variables": ocp.args.StandardSave({"params": state.params, "batch_stats": state.batch_stats}),
            "optimizer": ocp.args.StandardSave(_optimizer(state)),
            "meta": ocp.args.JsonSave(meta),
        }
        if state.average is not None:
            items["average"] = ocp.args.StandardSave(state.average)
        if data_state is not None:
            items["data"] = CheckpointSave(_Position(data_state))
        self._note(step, meta)
        self.wait()
        self._clear_removed()
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def restore(self, step: int, like: TrainState, iterator: Any = None) -> tuple[TrainState, bool]:
        """The state at a step, as host arrays, and whether the iterator's position was restored.

        like: a state of the same run (arrays or jax.ShapeDtypeStruct, without a device axis). iterator: a grain
        iterator; its position is missing (False) if the run had a different number of processes.
        Raises CheckpointError.
        """
        variables = {"params": like.params, "batch_stats": like.batch_stats}
        average = None
        variables = self._arrays(step, "variables", variables)
        optimizer = self._arrays(step, "optimizer", _optimizer(like))
        if like.average is not None:
            average = self._arrays(step, "average", like.average)
        state = TrainState(
            step=optimizer["step"],
            params=variables["params"],
            batch_stats=variables["batch_stats"],
            opt_state=optimizer["opt_state"],
            average=average,
        )
        name = f"process_{jax.process_index()}-of-{jax.process_count()}.json"
        has_position = iterator is not None and (self.folder / str(step) / "data" / name).exists()
        if has_position:
            self._restore(step, "data", CheckpointRestore(iterator))
        return state, has_position

    def variables(self, step: int, like: Any, *, average: bool) -> Any:
        """Only {"params", "batch_stats"} of a checkpoint, averaged if `average`. Raises CheckpointError."""
        return self._arrays(step, "average" if average else "variables", like)

    def meta(self, step: int) -> dict[str, Any]:
        """The saved meta. Raises CheckpointError."""
        meta = self._restore(step, "meta", ocp.args.JsonRestore())
        if not isinstance(meta, dict):
            raise CheckpointError(f"{self.folder / str(step)}: 'meta' is not a JSON object")
        return meta

    def wait(self) -> None:
        """Waits until the current save is complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        self._manager.close()
        self._clear_removed()

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _clear_removed(self) -> None:
        """Deletes the files of removed checkpoints. Orbax would delete them in place, and a kill in the middle would
        leave a folder that looks complete but is not."""
        if not self._read_only and jax.process_index() == 0:
            shutil.rmtree(self.folder / _REMOVED, ignore_errors=True)

    def _note(self, step: int, meta: dict[str, Any]) -> None:
        evaluation = meta.get("evaluation")
        if isinstance(evaluation, dict) and "AP" in evaluation:
            self._scores[step] = float(evaluation["AP"])

    def _arrays(self, step: int, item: str, like: Any) -> Any:
        # NumPy targets (which take no memory here) give NumPy arrays, whatever the devices.
        target = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)
        restored = self._restore(step, item, ocp.args.StandardRestore(target))
        expected = jax.tree_util.tree_leaves_with_path(target)
        for (path, wanted), array in zip(expected, jax.tree.leaves(restored), strict=True):
            if array.shape != wanted.shape:
                name = jax.tree_util.keystr(path, simple=True, separator="/")
                raise CheckpointError(
                    f"{self.folder / str(step)}: {name} has shape {array.shape}, but the model needs {wanted.shape}"
                )
        return restored

    def _restore(self, step: int, item: str, args: Any) -> Any:
        where = self.folder / str(step)
        if not (where / item).is_dir():
            raise CheckpointError(f"{where}: the checkpoint has no '{item}'")
        try:
            with _late_reads_silenced():
                return self._manager.restore(step, args=ocp.args.Composite(**{item: args}))[item]
        except Exception as error:  # Orbax and TensorStore raise many types
            raise CheckpointError(f"{where}: '{item}' cannot be restored: {one_line(error)[:300]}") from error


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


class _LastAndBest:
    """Orbax's own best-of policy forgets the scores when a run resumes; here they are read back from the metas."""

    def __init__(self, last: int, scores: dict[int, float]):
        self._last = last
        self._scores = scores

    def should_preserve(self, checkpoints: Any, *, context: Any) -> list[bool]:
        steps = [checkpoint.step for checkpoint in checkpoints]
        scored = [step for step in steps if step in self._scores]
        kept = set(sorted(steps)[-self._last :])
        if scored:
            kept.add(max(scored, key=lambda step: (self._scores[step], step)))
        return [step in kept for step in steps]


@contextmanager
def _late_reads_silenced() -> Iterator[None]:
    """If one array cannot be read, the other pending reads fail on a closed event loop, each printing a traceback."""
    hook = sys.unraisablehook

    def filtered(unraisable: Any) -> None:
        if "Event loop is closed" not in str(unraisable.exc_value):
            hook(unraisable)

    sys.unraisablehook = filtered
    try:
        yield
    except BaseException:
        time.sleep(0.3)  # enough for the pending reads to fail
        raise
    finally:
        sys.unraisablehook = hook


class _Position:
    """Stands in for the iterator at an earlier step; the real one has read ahead."""

    def __init__(self, state: dict[str, Any]):
        self._state = state

    def get_state(self) -> bytes:
        return json.dumps(self._state, indent=4).encode()
