"""Progress of a training run: a bar on a terminal, plain lines elsewhere, with speed and input wait."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


class Progress:
    """Shows progress: a tqdm bar if standard error is a terminal, otherwise a line on standard output every `log_every`
    steps.

    total: steps of the whole run. start: steps already done when resumed. images_per_step: of the global batch.
    The speed is that of training alone: wrap evaluation and checkpoints in `with progress.paused():`. The first step
    compiles and does not count. Wrap waiting for the next batch in `with progress.waiting(busy):`.
    """

    def __init__(
        self, total: int, *, images_per_step: int, start: int = 0, log_every: int = 50, terminal: bool | None = None
    ):
        self.total, self.log_every, self.images_per_step = total, log_every, images_per_step
        self.step = start
        terminal = sys.stderr.isatty() if terminal is None else terminal
        self._bar = tqdm(total=total, initial=start, unit="step", dynamic_ncols=True) if terminal else None
        self._started = False
        self._last_time = self._paused_time = 0.0
        self._window_seconds, self._window_steps, self._window_wait = 0.0, 0, 0.0
        self._seconds, self._steps, self._wait = 0.0, 0, 0.0  # since the start, to estimate the time left

    def update(self, step: int, loss: float | None = None) -> None:
        """Reports that `step` steps are done. loss: the latest known, possibly of an earlier step."""
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
        elif step % self.log_every == 0 or step == self.total:
            left = ""
            if self._steps:
                left = f"  {_clock((self.total - step) * self._seconds / self._steps)} left"
            print(f"step {step}/{self.total}  {self._text(loss)}{left}", flush=True)

    def speed(self) -> dict[str, float]:
        """Since the last call: "images_per_second", and "input_wait", the fraction of the training time spent in
        `waiting`. NaN before the second step is done."""
        seconds, steps, wait = self._window_seconds, self._window_steps, self._window_wait
        self._window_seconds, self._window_steps, self._window_wait = 0.0, 0, 0.0
        if seconds <= 0:
            return {"images_per_second": math.nan, "input_wait": math.nan}
        return {"images_per_second": steps * self.images_per_step / seconds, "input_wait": wait / seconds}

    @contextmanager
    def waiting(self, busy: Callable[[], bool]) -> Iterator[None]:
        """Counts the time inside, in which the host fetches a batch, as devices waiting for input.

        Steps run asynchronously: if `busy()`, called at the end, says that the devices are still working, they never
        waited and nothing counts. Otherwise they ran out of work at some point, and all of the time counts: an upper
        bound. Each host measures only its own wait; the first step does not count.
        """
        begin = time.perf_counter()
        yield
        if self._started and not busy():
            seconds = time.perf_counter() - begin
            self._window_wait += seconds
            self._wait += seconds

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Excludes the time inside from the speed; prints inside do not break the bar."""
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
