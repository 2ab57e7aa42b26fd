"""What befalls runs, and whether they come through: `python -m tests.faults --seed 0`, or `make faults`.

One line for each case; exit code 1 if anything was lost, silently wrong or not said in one line.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np

from tests.faults.cases import CASES
from tests.faults.runs import Runs


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and places (default: 0)")
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="some of the cases")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        runs = Runs(Path(folder))
        for name in options.only:
            begin = time.monotonic()
            try:
                said = CASES[name](runs, np.random.default_rng([options.seed, *name.encode()]))
            except AssertionError as error:
                failed += 1
                said = f"FAILED: {error}"
            print(f"{name:14} {time.monotonic() - begin:4.0f} s  {said}", flush=True)
    print(f"seed {options.seed}: {len(options.only) - failed} of {len(options.only)} cases")
    return int(failed > 0)


if __name__ == "__main__":
    raise SystemExit(main())
