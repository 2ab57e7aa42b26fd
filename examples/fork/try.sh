#!/usr/bin/env sh
# All that a fork does, once: contract, cost, comparison, which trains, then evaluation and export of what was trained.
#
#   ./try.sh OUT [--config.NAME=VALUE ...]
#
# OUT: a new folder. The options change the trainings, for instance --config.run.steps=100. PYTHON is the interpreter, SIZE
# the image of the benchmark, SEEDS the runs of each config in the comparison; CONTRACT="--only shapes" checks less.
set -eu
if [ $# -eq 0 ]; then
    sed -n '2,7s/^# \{0,1\}//p' "$0" >&2
    exit 2
fi
case $1 in
/*) out=$1 ;;
*) out=$PWD/$1 ;;
esac
shift
cd "$(dirname "$0")"
python=${PYTHON:-python}
spatial=strip_head.strips:StripAttention
task=strip_head.gates:SqueezeGates

run() {
    echo "+ python $*"
    "$python" "$@"
}

mkdir -p "$out"
run -m dyhead_jax.contract --spatial $spatial --spatial.points=7 --task $task ${CONTRACT:-}
run -m dyhead_jax.benchmark block --size "${SIZE:-256x256}" --levels 4 --channels 64 --repeats 3 \
    --attention spatial=$spatial spatial.points=7 task=$task
run -m dyhead_jax.compare configs/strips.py configs/strips.py:shipped --seeds "${SEEDS:-2}" --workdir "$out/compare" \
    --trust strip_head "$@"
trained="$out/compare/strips/seed0"
run -m dyhead_jax.evaluate --workdir "$trained" --trust strip_head
run -m dyhead_jax.export --workdir "$trained" --trust strip_head --format safetensors --out "$out/strips"
run -m dyhead_jax.export --workdir "$out/strips" --trust strip_head --format stablehlo --out "$out/strips_hlo"
