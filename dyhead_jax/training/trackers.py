"""Programs in which people look at metrics: TensorBoard, Weights & Biases, MLflow; each is an extra of its own.

They get what metrics.jsonl gets, under the same names. A resumed run goes on in the same record of each program, whose
name stands in <workdir>/trackers.json.
"""

import json
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from dyhead_jax.config import RunConfig
from dyhead_jax.data.images import read_file
from dyhead_jax.files import write_atomic

PROJECT = "dyhead_jax"  # of Weights & Biases; the experiment of MLflow


class TrackerError(ValueError):
    """A program is not installed, or has not the record of this run; the message names the extra or the file."""


class Tracker(Protocol):
    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """values: by name; None where a number was not finite."""
        ...

    def close(self) -> None: ...


def open_trackers(run: RunConfig, folder: Path, resume_step: int, config: Mapping[str, Any]) -> list[Tracker]:
    """Those that are switched on in `config.run`. config: of the experiment, as JSON; shown by the programs that can.

    Raises TrackerError for one that is not installed.
    """
    trackers: list[Tracker] = []
    if run.tensorboard:
        trackers.append(TensorBoard(folder, resume_step))
    if run.wandb:
        trackers.append(WeightsAndBiases(folder, config))
    if run.mlflow:
        trackers.append(MLflow(folder, config))
    return trackers


class TensorBoard:
    """Event files in <workdir>/tensorboard."""

    def __init__(self, folder: Path, resume_step: int):
        try:
            from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
        except ImportError as error:
            raise _absent("tensorboard") from error
        self._writer = SummaryWriter(str(folder / "tensorboard"), purge_step=resume_step + 1)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, math.nan if value is None else value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class WeightsAndBiases:
    """A run of wandb, with its files in <workdir>/wandb. Its environment variables hold, such as WANDB_MODE=offline.

    Of a killed run that goes on from an earlier checkpoint, wandb keeps the values that it already had.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        try:
            import wandb  # type: ignore[import-not-found]
        except ImportError as error:
            raise _absent("wandb") from error
        identity = _known(folder).get("wandb") or secrets.token_hex(4)
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=folder.resolve().name,
            id=identity,
            resume="allow",
            dir=str(folder),
            config=dict(config),
        )
        _keep(folder, "wandb", identity)

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        self._run.log({name: value for name, value in values.items() if value is not None}, step=step)

    def close(self) -> None:
        self._run.finish()


class MLflow:
    """A run of MLflow: on the server that MLFLOW_TRACKING_URI names, or in the file <workdir>/mlflow.db."""

    def __init__(self, folder: Path, config: Mapping[str, Any]):
        try:
            import mlflow  # type: ignore[import-not-found]
            from mlflow.entities import Metric  # type: ignore[import-not-found]
            from mlflow.exceptions import MlflowException  # type: ignore[import-not-found]
        except ImportError as error:
            raise _absent("mlflow") from error
        self._metric = Metric
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(folder / 'mlflow.db').resolve()}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        identity = _known(folder).get("mlflow")
        if identity is None:
            experiment = self._client.get_experiment_by_name(PROJECT)
            number = experiment.experiment_id if experiment else self._client.create_experiment(PROJECT)
            identity = self._client.create_run(number, run_name=folder.resolve().name).info.run_id
            for name, value in _flat(config).items():
                self._client.log_param(identity, name, str(value)[:500])
            _keep(folder, "mlflow", identity)
        else:
            try:
                self._client.update_run(identity, status="RUNNING")
            except MlflowException as error:
                raise TrackerError(
                    f"{folder / 'trackers.json'} names run {identity}, which MLflow at {uri} does not have; give the"
                    " MLFLOW_TRACKING_URI of before, or remove the file to start a new record"
                ) from error
        self._identity = identity

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        now = int(time.time() * 1000)
        metrics = [self._metric(name, value, now, step) for name, value in values.items() if value is not None]
        self._client.log_batch(self._identity, metrics=metrics)

    def close(self) -> None:
        self._client.set_terminated(self._identity)


def _absent(extra: str) -> TrackerError:
    return TrackerError(f"config.run.{extra} needs the extra `{extra}`: pip install 'dyhead-jax[{extra}]'")


def _known(folder: Path) -> dict[str, str]:
    """The names of the records that this run has in each program."""
    path = folder / "trackers.json"
    if not path.exists():
        return {}
    try:
        known = json.loads(read_file(path))
        return {str(key): str(value) for key, value in known.items()}
    except (ValueError, AttributeError, RecursionError) as error:  # a ValueError for a pipe too
        raise TrackerError(f"{path} is broken; remove it to start new records") from error


def _keep(folder: Path, program: str, identity: str) -> None:
    write_atomic(folder / "trackers.json", json.dumps(_known(folder) | {program: identity}).encode())


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{prefix}.{key}" if prefix else key
        flat |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return flat
