"""Times this package on one NVIDIA GPU beside `torchvision.ops.deform_conv2d`, in at most eight minutes.

  bash benchmarks/gpu.sh --out DIR
  bash benchmarks/gpu.sh --out DIR --rehearse     everything in miniature on the CPU, in about a minute

Runs, in turns and on the same tensors: the deformable convolution (256 channels, 100x152 and 50x76, batch 1 and 8) in
each of our forms, a DyHead block on the pyramid of 800x1344 by form, each forward and with gradients; and a training
step of ATSS with ResNet-50, with and without DyHead. In bfloat16, float32 with exact products, float32 with TF32
products, and float16. All results are first compared with those in float32. Beside the times stand the device's own
ceilings, measured in the same rounds, and the floor of each program under them.

DIR gets rows.jsonl (a line as soon as a number is known), gpu.log, gpu.json and gpu.md (the tables), and profiles for
xprof (*.xplane.pb). Each part has a time limit, and what it leaves goes to the next one. A part that fails or is
stopped costs no line of another.
"""

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from dyhead_jax import command
from dyhead_jax.contract.compiling import quick_flags
from dyhead_jax.files import write_atomic
from gpu import report

LIMITS = {"machine": 40, "operator": 180, "block": 110, "train": 140}  # seconds; 470 together
PATIENCE = 4  # times as long for a rehearsal, which may have to share its cores
REHEARSAL_ENVIRONMENT = {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": " ".join(quick_flags(devices=1))}
# JAX and PyTorch share the card's memory
ENVIRONMENT = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "PYTHONUNBUFFERED": "1"}


def main() -> int:
    parser = command.parser("bash benchmarks/gpu.sh", __doc__ or "")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder for the results")
    parser.add_argument("--rehearse", action="store_true", help="in miniature on the CPU")
    parser.add_argument("--without-torchvision", action="store_true", help="only our own forms")
    parser.add_argument("--part", action="append", choices=LIMITS, help="only this one; repeatable")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in ("rows.jsonl", "gpu.log"):
        (options.out / name).unlink(missing_ok=True)
    said = f"bash benchmarks/gpu.sh {shlex.join(sys.argv[1:])}"
    ends, statuses, rows = time.monotonic(), {}, []
    for part in tqdm(options.part or [*LIMITS], unit="part"):
        ends += LIMITS[part] * (PATIENCE if options.rehearse else 1)
        flags = [
            f"--{name.replace('_', '-')}" for name in ("rehearse", "without_torchvision") if getattr(options, name)
        ]
        statuses[part] = run(part, options.out, flags, ends - time.monotonic())
        rows = write(options.out, said, statuses, options.rehearse)
        if statuses[part]["code"] == 2:  # no GPU
            last = (options.out / "gpu.log").read_text(errors="replace").splitlines()[-1]
            raise command.UsageError(last.removeprefix("error: "))
    print((options.out / "gpu.md").read_text())
    return int(bool(report.faults(rows)) or any(status["code"] for status in statuses.values()))


def run(part: str, out: Path, flags: Sequence[str], limit: float) -> dict[str, Any]:
    """Runs a part, ends it at the limit (seconds), and returns what became of it."""
    arguments = [sys.executable, "-m", "gpu.parts", part, str(out), *flags]
    environment = os.environ | ENVIRONMENT | (REHEARSAL_ENVIRONMENT if "--rehearse" in flags else {})
    start = time.monotonic()
    with (out / "gpu.log").open("ab") as log:
        log.write(f"== {part}\n".encode())
        log.flush()
        code, how = call(arguments, environment, log, limit)
    return {"code": code, "how": how, "seconds": time.monotonic() - start}


def call(arguments: Sequence[str], environment: dict[str, str], log: Any, limit: float) -> tuple[int, str]:
    """Exit code and one line about a process, which is killed at the limit in seconds; log: the file of its output."""
    with subprocess.Popen(arguments, stdout=log, stderr=subprocess.STDOUT, env=environment) as process:
        try:
            code = process.wait(max(limit, 1.0))
        except subprocess.TimeoutExpired:
            process.kill()
            return 124, f"stopped after {limit:.0f} s"
        except BaseException:
            process.kill()
            raise
    return code, "done" if code == 0 else f"failed (exit code {code}); see gpu.log"


def write(out: Path, said: str, statuses: dict[str, dict[str, Any]], rehearse: bool) -> list[dict[str, Any]]:
    """Writes gpu.json and gpu.md from the lines so far, and returns these."""
    lines = out / "rows.jsonl"
    rows = [json.loads(line) for line in lines.read_text().splitlines()] if lines.exists() else []
    text = json.dumps({"command": said, "rehearsal": rehearse, "parts": statuses, "rows": rows}, indent=1)
    write_atomic(out / "gpu.json", (text + "\n").encode())
    write_atomic(out / "gpu.md", (report.page(said, statuses, rows, rehearse) + "\n").encode())
    return rows


if __name__ == "__main__":
    command.run(main)
