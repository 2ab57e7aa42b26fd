"""How far a training run is: a bar on a terminal, plain lines elsewhere, speed and input wait."""

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm


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
