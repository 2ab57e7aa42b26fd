"""The program with a look at its own memory every 20 steps; the last line but one is its slope."""

import sys

import numpy as np

from dyhead_jax import command, train
from dyhead_jax.data import pipeline
from tests.training import distributed_run


def watched() -> list[tuple[int, float]]:
    """(step, MB of the process in memory), which grows while the run goes on."""
    seen: list[tuple[int, float]] = []
    whole = pipeline.TrainIterator.__next__

    def look(self):
        step = self.get_state()["step"]
        if step % 20 == 0:
            with open("/proc/self/status") as file:
                [line] = [line for line in file if line.startswith("VmRSS")]
            seen.append((step, int(line.split()[1]) / 1024))
        return whole(self)

    pipeline.TrainIterator.__next__ = look
    return seen


if __name__ == "__main__":
    distributed_run.tiny()
    sys.argv.pop(1)
    seen = watched()

    def main() -> int:
        code = train.main()
        steps, sizes = np.array([point for point in seen if point[0] >= 600]).T
        slope = np.polyfit(steps, sizes, 1)[0] * 1000
        print(f"memory: {slope:.2f} MB in 1,000 steps, from {sizes[0]:.0f} to {sizes[-1]:.0f} MB")
        return code

    command.run(main)
