"""The runs of a comparison: where each lies, which are finished, and the order in which the others are trained.

<workdir>/<config>/seed0/        the folder of a training, see `python -m dyhead_jax.train --help`
<workdir>/<config>/seed0.log     what it printed
<workdir>/<config>/seed0.json    how its processes ended: exit code, seconds, memory, machine
<workdir>/data/, cache/          drawn pictures and compiled programs, of all runs
"""

import json
import os
import signal
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dyhead_jax.compare.candidates import Candidate
from dyhead_jax.compare.process import Ended
from dyhead_jax.evaluation import average_precision
from dyhead_jax.files import write_atomic
from dyhead_jax.training import workdir
from dyhead_jax.training.metrics import read_metrics
from dyhead_jax.training.stored import steps_in

STOPPED = 75  # exit code of a training that SIGTERM stopped, see dyhead_jax/train.py


@dataclass
class Record:
    """What this program saw of a run, of all its processes since it began. code: of the last one, None before it ended;
    seconds: together; bytes: the largest resident set; loads: the machine's load average (1 minute) before each;
    machine: where the last one ran, as `timing.machine` says."""

    code: int | None = None
    seconds: float = 0.0
    bytes: int = 0
    loads: list[float] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)

    def is_valid(self) -> bool:
        """Whether all values are of the declared types, as a file may hold others."""
        numbers = isinstance(self.loads, list) and all(
            type(number) in (int, float) for number in (self.seconds, self.bytes, *self.loads)
        )
        texts = isinstance(self.machine, dict) and all(isinstance(text, str) for text in self.machine.values())
        return numbers and texts and (self.code is None or type(self.code) is int)


@dataclass(frozen=True)
class Run:
    """One training: a candidate with a seed. folder: its workdir."""

    candidate: Candidate
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.candidate.name}, seed {self.seed}"

    @property
    def log(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.log")

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The lines of its metrics.jsonl, [] before it has any."""
        return read_metrics(self.folder / "metrics.jsonl")

    @property
    def record(self) -> Record:
        path = self._record
        if not path.is_file():
            return Record()
        try:
            record = Record(**json.loads(path.read_text()))
            if not record.is_valid():
                raise ValueError("a value is of another kind")
            return record
        except (ValueError, TypeError, RecursionError) as error:
            raise workdir.WorkdirError(f"{path} is not a record of a run ({error}); remove it") from error

    @property
    def _record(self) -> Path:
        return self.folder.with_name(f"{self.folder.name}.json")

    @property
    def is_finished(self) -> bool:
        steps = self.candidate.config.run.steps
        return self.record.code == 0 and average_precision.scores_at(self.rows, steps) is not None

    @property
    def has_failed(self) -> bool:
        """Whether its last process ended with an error."""
        return self.record.code not in (None, 0, STOPPED, -signal.SIGTERM)

    def check(self) -> None:
        """Raises WorkdirError if its folder belongs to a run with another config; one that would only be trained longer
        is another one too, since its learning rates were others."""
        steps, config = self.candidate.config.run.steps, self.candidate.seeded(self.seed)
        before = workdir.check(self.folder, config, finished=self.record.code == 0)
        if before not in (None, steps):
            raise workdir.WorkdirError(
                f"{self.folder} has a run of {before} steps, not {steps}; choose another --workdir"
            )

    @property
    def has_begun(self) -> bool:
        """Whether it has saved anything from which it would go on."""
        return bool(steps_in(self.folder / "checkpoints"))

    def add(self, ended: Ended, record: Record, load: float, machine: dict[str, str]) -> None:
        """Writes down how a process of it ended, behind what `record` says."""
        record.code, record.machine = ended.code, machine
        record.seconds += ended.seconds
        record.bytes = max(record.bytes, ended.bytes)
        record.loads.append(load)
        write_atomic(self._record, (json.dumps(asdict(record)) + "\n").encode())


def plan(candidates: Sequence[Candidate], seeds: Iterable[int], folder: Path) -> list[Run]:
    """All runs in their order: the first seed of every candidate, then the second, so that a table comes early.

    Raises what `Run.check` raises.
    """
    runs = [Run(one, seed, folder / one.folder / f"seed{seed}") for seed in seeds for one in candidates]
    for run in runs:
        run.check()
    return runs


def go_through(
    runs: Sequence[Run], train: Callable[[Run, int], Ended], report: Callable[[], None], machine: dict[str, str]
) -> int:
    """Trains the runs that are not finished, one after the other; those that fail do not hold up the others.

    train: trains one, whose number (from 1) is its second argument; report: called after each and, if nothing is left
    to do, once. Returns 75 if one was stopped, else 0.
    """
    left = [(number, run) for number, run in enumerate(runs, 1) if not run.is_finished]
    for number, run in left:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        load, record = os.getloadavg()[0], run.record if run.has_begun else Record()
        ended = train(run, number)
        run.add(ended, record, load, machine)
        if ended.code == 0:
            run.check()  # a config file that was edited in the meantime
        report()
        if ended.code in (STOPPED, -signal.SIGTERM):
            return STOPPED
    if not left:
        report()
    return 0
