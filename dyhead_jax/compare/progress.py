"""Where a comparison stands: a bar of all steps on a terminal, and lines at the start and end of each run."""

import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tqdm import tqdm

from dyhead_jax.compare.process import Ended
from dyhead_jax.compare.runs import STOPPED, Run
from dyhead_jax.evaluation import average_precision

EVERY = 1.0  # seconds between looks at the file of a run
TAIL = 8192  # bytes of a file in which its last line lies


class Progress:
    """Of these runs; use it as a context manager. left: how many are not finished."""

    def __init__(self, runs: Sequence[Run]):
        steps = [(run.candidate.config.run.steps, run.is_finished) for run in runs]
        self.count, self.left = len(steps), sum(not is_finished for _, is_finished in steps)
        self._done, self._looked = sum(count for count, is_finished in steps if is_finished), 0.0
        total, terminal = sum(count for count, _ in steps), sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=self._done, unit="step", dynamic_ncols=True) if terminal else None
        if self.left < self.count:
            self._say(f"{self.count - self.left} of {self.count} runs are finished")

    def begins(self, run: Run, number: int) -> Callable[[], None]:
        """Says that a run begins, and returns what to call while it trains."""
        self._say(f"{number} of {self.count}: {run.name}, log in {run.log}")

        def poll() -> None:
            if self._bar is not None and time.monotonic() > self._looked + EVERY:
                self._looked = time.monotonic()
                self._bar.set_postfix_str(run.name, refresh=False)
                self._bar.update(self._done + last_step(run.folder / "metrics.jsonl") - self._bar.n)

        return poll

    def ends(self, run: Run, ended: Ended) -> None:
        """Says how it ended."""
        steps, took = run.candidate.config.run.steps, f"{ended.seconds:.0f} s"
        scores = average_precision.scores_at(run.rows, steps)
        if ended.code == 0 and scores is not None:
            self._say(f"  {average_precision.ap_line(scores)}, after {took}")
        elif ended.code in (STOPPED, -signal.SIGTERM):
            self._say(f"  stopped at step {last_step(run.folder / 'metrics.jsonl')} of {steps}, after {took}")
        else:
            self._say(f"  failed with exit code {ended.code} after {took}: {last_line(run.log)} ({run.log})")
        self._done += steps
        if self._bar is not None:
            self._bar.update(self._done - self._bar.n)

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            tqdm.write(text)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        if self._bar is not None:
            self._bar.close()


def last_line(path: Path) -> str:
    """The last line of a file that is not empty, without what is half written behind it; "" if there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - TAIL, 0))
        lines = file.read().decode(errors="replace").rpartition("\n")[0].splitlines()
    return next((line for line in reversed(lines) if line.strip()), "")


def last_step(path: Path) -> int:
    """The step of the last line of a metrics.jsonl that is being written, 0 before there is one."""
    line = last_line(path)
    return int(json.loads(line)["step"]) if line else 0
