"""Makes nasty files from a seed and looks how the commands take them: see `tests/nasty/__init__.py`.

Exit code 1 if any reaction was wrong.
"""

import argparse
import os
import sys
from collections import Counter

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from tqdm import tqdm

from tests.nasty import generated


def main() -> int:
    parser = argparse.ArgumentParser("python -m tests.nasty", description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of all cases (default: 0)")
    parser.add_argument("--cases", type=int, default=100, help="of each kind (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="number of the first one (default: 0)")
    parser.add_argument("--kinds", nargs="+", choices=generated.KINDS, default=list(generated.KINDS))
    parser.add_argument("--most", type=int, default=20, help="wrong reactions to print (default: 20)")
    options = parser.parse_args()
    wrong: Counter[str] = Counter()
    numbers = range(options.first, options.first + options.cases)
    cases = generated.go_through(options.kinds, options.seed, numbers)
    for case in tqdm(cases, total=len(numbers) * len(options.kinds), disable=not sys.stderr.isatty()):
        if options.cases == 1:
            print(case.words)
        if case.fault is not None:
            wrong[case.kind] += 1
            if wrong.total() <= options.most:
                print(f"{case}\n", flush=True)
    made = f"{len(numbers)} cases of each of {', '.join(options.kinds)}"
    print(f"seed {options.seed}: {made}; wrong: {dict(wrong) or 'none'}")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
