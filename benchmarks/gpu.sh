#!/usr/bin/env bash
# Times this package on an NVIDIA GPU beside torchvision; all options are those of benchmarks/gpu/__main__.py (--help).
#
#   bash benchmarks/gpu.sh --out DIR
#
# Runs with $PYTHON, else .venv/bin/python, else python3. That Python needs JAX with its CUDA plugin, PyTorch and
# torchvision, and what this package imports:
#
#   python3 -m venv .venv && .venv/bin/pip install -e ".[cuda]" torchvision
#
# Where the machine with the GPU reaches no package index, WHEELS=FOLDER has the wheels of what its Python lacks; they
# are unpacked into a temporary folder. Without torchvision only our own forms are timed.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ -z "$python" ]; then
    python=python3
    if "$root/.venv/bin/python" -c "import jax" 2>/dev/null; then
        python=$root/.venv/bin/python
    fi
fi
path=$root:$root/benchmarks
if [ -n "${WHEELS:-}" ]; then
    site=$(mktemp -d)
    trap 'rm -rf "$site"' EXIT
    "$python" -m pip install --quiet --no-index --no-deps --no-compile --target "$site" "$WHEELS"/*.whl
    path=$path:$site
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
needed="jax flax optax ml_collections numpy tqdm"
missing=$("$python" -c 'import sys
from importlib.util import find_spec
print(*(name for name in sys.argv[1:] if find_spec(name) is None))' $needed)
if [ -n "$missing" ]; then
    echo "error: $python lacks $missing; the first lines of benchmarks/gpu.sh say what to install" >&2
    exit 2
fi
"$python" -m gpu "$@"
