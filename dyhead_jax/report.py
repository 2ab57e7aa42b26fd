"""What a run writes for people: metrics.jsonl, TensorBoard, curves, progress."""

import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from tqdm import tqdm


class ReportError(ValueError):
    """A metrics file that cannot be continued, or a missing extra; the message names it."""


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl as dicts, in file order; [] when there is no such file.

    A last line that a killed run left half-written is dropped. Raises ReportError for any other line that is not a JSON
    object with an integer `step`.
    """
    path = Path(path)
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            whole = isinstance(row, dict) and type(row.get("step")) is int
        except ValueError:
            whole = False
        if whole:
            rows.append(row)
        elif number < len(lines):  # a newline follows: nobody was cut off here
            raise ReportError(f"{path}, line {number}: not a JSON object with an integer 'step'")
    return rows


class Metrics:
    """Appends to metrics.jsonl, one JSON object a line, and to TensorBoard where wanted.

    On opening, lines of steps beyond `resume_step` are dropped (the resumed run writes them again), atomically: a kill
    at any moment leaves the old file or the new one. For no line to be lost, write those of step s before checkpoint s
    counts as saved.

    path: the file, made when missing. resume_step: the step the run continues from, 0 for a new run.
    tensorboard: also write event files to a folder `tensorboard` beside the file.
    `rows` are the lines kept and written, as dicts.
    Raises ReportError when the file is broken before its last line, or when tensorboardX is wanted and missing.
    """

    def __init__(self, path: str | Path, *, resume_step: int = 0, tensorboard: bool = False):
        self.path = Path(path)
        self.rows = [row for row in read_metrics(self.path) if row["step"] <= resume_step]
        self._board = _tensorboard(self.path.parent / "tensorboard", resume_step) if tensorboard else None
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path, "".join(json.dumps(row) + "\n" for row in self.rows).encode())
        self._file = self.path.open("a")

    def write(self, step: int, values: Mapping[str, Any]) -> None:
        """One line {"step": step, **values}. Values are numbers or scalar arrays; JSON has no NaN: it becomes null."""
        row: dict[str, Any] = {"step": int(step)}
        for key, value in values.items():
            number = float(value)
            row[key] = number if math.isfinite(number) else None
        self.rows.append(row)
        self._file.write(json.dumps(row) + "\n")
        self._file.flush()
        if self._board is not None:
            for key, value in row.items():
                if key != "step":
                    self._board.add_scalar(key, math.nan if value is None else value, step)
            self._board.flush()

    def has(self, step: int, key: str) -> bool:
        """Whether a line of this step holds the key: a resumed run asks before it evaluates or logs again."""
        return any(row["step"] == step and key in row for row in self.rows)

    def close(self) -> None:
        self._file.close()
        if self._board is not None:
            self._board.close()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _tensorboard(folder: Path, resume_step: int) -> Any:
    try:
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]
    except ImportError as error:
        raise ReportError(
            "config.run.tensorboard needs the extra `tensorboard`: pip install dyhead-jax[tensorboard]"
        ) from error
    return SummaryWriter(str(folder), purge_step=resume_step + 1)


def write_atomic(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all: a temporary file beside it, then a rename. One writer a file: what a killed
    one left behind has the same name, and is replaced."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def curves(rows: Sequence[Mapping[str, Any]], path: str | Path) -> None:
    """Draws loss terms, learning rate and AP over steps into a PNG file, from the rows of `read_metrics`.

    A panel without data says so; missing and null values leave gaps.
    """
    keys = dict.fromkeys(key for row in rows for key in row)
    panels = [
        ("loss", [k for k in keys if k.startswith("train/loss")]),
        ("learning rate", [k for k in keys if k == "train/lr"]),
        ("average precision", [k for k in ("eval/AP", "eval/AP50", "eval/AP75") if k in keys]),
    ]
    # Figure, not pyplot: no global state, no display, whatever backend the user has set
    figure = Figure(figsize=(15, 4), layout="constrained")
    for axes, (title, names) in zip(figure.subplots(1, len(panels)), panels, strict=True):
        for name in names:
            points = [(row["step"], row[name]) for row in rows if name in row]
            steps = [step for step, _ in points]
            values = [math.nan if value is None else value for _, value in points]
            marker = "o" if name.startswith("eval/") or len(points) == 1 else None
            width = 2 if name == "train/loss" else 1
            axes.plot(steps, values, label=name.split("/", 1)[1], linewidth=width, marker=marker, markersize=3)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.grid(alpha=0.3)
        if names:
            axes.set_ylim(bottom=0)
            axes.legend(fontsize="small")
        else:
            axes.text(0.5, 0.5, "nothing yet", ha="center", va="center", transform=axes.transAxes)
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    figure.savefig(temporary, format="png", dpi=100)
    os.replace(temporary, path)


class Progress:
    """Progress of a training run: a tqdm bar where standard error is a terminal, elsewhere one plain line every `every`
    steps on standard output.

    total: steps of the whole run. start: steps already done, on resume. images_per_step: of the global batch.
    Speed counts training alone: wrap evaluation and checkpoints in `with progress.paused():`. The first step compiles
    and does not count. What waits for the next batch is wrapped in `with progress.waiting(busy):`.
    """

    def __init__(
        self, total: int, *, images_per_step: int, start: int = 0, every: int = 50, terminal: bool | None = None
    ):
        self.total, self.every, self.images_per_step = total, every, images_per_step
        self.step = start
        terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if terminal else None
        self._started = False
        self._last_time = self._paused_time = 0.0
        self._window_seconds, self._window_steps, self._window_wait = 0.0, 0, 0.0
        self._seconds, self._steps, self._wait = 0.0, 0, 0.0  # since the start, for the time left

    def update(self, step: int, loss: float | None = None) -> None:
        """Says that `step` steps are done. loss: of the latest step known, which may be an earlier one."""
        now, done = time.perf_counter(), step - self.step
        if self._started:
            seconds = now - self._last_time - self._paused_time
            self._window_seconds += seconds
            self._window_steps += done
            self._seconds += seconds
            self._steps += done
        self._started, self._last_time, self._paused_time, self.step = True, now, 0.0, step
        if self._bar is not None:
            self._bar.set_postfix_str(self._text(loss), refresh=False)
            self._bar.update(done)
        elif step % self.every == 0 or step == self.total:
            left = ""
            if self._steps:
                left = f"  {_clock((self.total - step) * self._seconds / self._steps)} left"
            print(f"step {step}/{self.total}  {self._text(loss)}{left}", flush=True)

    def speed(self) -> dict[str, float]:
        """Since this method was last asked, NaN before a second step is done: "images_per_second", and "input_wait",
        the fraction of the training time that went by in `waiting`."""
        seconds, steps, wait = self._window_seconds, self._window_steps, self._window_wait
        self._window_seconds, self._window_steps, self._window_wait = 0.0, 0, 0.0
        if seconds <= 0:
            return {"images_per_second": math.nan, "input_wait": math.nan}
        return {"images_per_second": steps * self.images_per_step / seconds, "input_wait": wait / seconds}

    @contextmanager
    def waiting(self, busy: Callable[[], bool]) -> Iterator[None]:
        """The time inside, in which the host takes a batch, is a wait of the devices for their input.

        Steps run while the host goes on, so it is none where `busy()`, asked at the end, says that the devices still
        have work from before: they had it all the time. Otherwise they ran dry at some moment inside, and all of the
        time counts: an upper bound. Of several hosts each knows its own wait alone; the first step does not count.
        """
        begin = time.perf_counter()
        yield
        if self._started and not busy():
            seconds = time.perf_counter() - begin
            self._window_wait += seconds
            self._wait += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time inside out of the speed; prints inside do not tear the bar."""
        begin = time.perf_counter()
        if self._bar is not None:
            self._bar.clear()
        try:
            yield
        finally:
            self._paused_time += time.perf_counter() - begin

    def _text(self, loss: float | None) -> str:
        parts = [] if loss is None else [f"loss {loss:.4g}"]
        if self._seconds > 0:
            parts.append(f"{self._steps * self.images_per_step / self._seconds:.1f} images/s")
            parts.append(f"input wait {self._wait / self._seconds:.1%}")
        return "  ".join(parts)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
