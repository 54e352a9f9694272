#!/usr/bin/env bash
# What one NVIDIA GPU says of digits_jax, within eight minutes. From the project's root:
#
#     bash tests/accelerators/gpu_check.sh
#     GPU_CHECK_STEPS="env tests" bash tests/accelerators/gpu_check.sh  # these steps alone
#     GPU_CHECK_SMOKE=1 bash tests/accelerators/gpu_check.sh  # small, on a CPU: does it run?
#
#     GPU_CHECK_PYTHON   the interpreter. Default: python3
#     GPU_CHECK_SECONDS  for all steps together. Default: 480; of the small form, 3600
#     DIGITS_JAX_DATA    all rows, a CSV. Default: .gpu/optdigits.csv, else the bundled rows
#     OUT                the folder for results. Default: runs/gpu_check
#
# Each step is a process of its own, with a limit of its own in seconds. Its JSON lines go to
# $OUT/results.jsonl as soon as it ends, all else that it prints to $OUT/log.txt. A step that fails
# or is stopped takes nothing from the others. The wheels in .gpu are used, if there are any (see
# gpu_carry.sh).
set -u
HERE=$(cd "$(dirname "$0")" && pwd)
OUT=${OUT:-runs/gpu_check}
SMOKE=${GPU_CHECK_SMOKE:-}
TOTAL=${GPU_CHECK_SECONDS:-${SMOKE:+3600}}
TOTAL=${TOTAL:-480}
PY=${GPU_CHECK_PYTHON:-python3}
STARTED=$(date +%s)

[[ -f experiments/cross_validate.py ]] || { echo "run it from the project's root" >&2; exit 2; }
mkdir -p "$OUT"
OUT=$(cd "$OUT" && pwd)
RESULTS=$OUT/results.jsonl
LOG=$OUT/log.txt
WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
: >"$RESULTS"
: >"$LOG"

# ------------------------------------------------------------------------------------- environment
path=$HERE:$PWD:$PWD/experiments:$PWD/experiments/peers
if compgen -G ".gpu/wheels/*.whl" >/dev/null && [[ -z $SMOKE ]]; then
    # First on the path, so that they win over what the machine has.
    if "$PY" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir \
        --target "$WORK/site" .gpu/wheels/*.whl >>"$LOG" 2>&1; then
        path=$WORK/site:$path
    else
        echo "the wheels could not be installed; see $LOG" >&2
    fi
fi
export PYTHONPATH=$path${PYTHONPATH:+:$PYTHONPATH}
export PYTHONUNBUFFERED=1 PYTHONPYCACHEPREFIX=$WORK/pycache TF_CPP_MIN_LOG_LEVEL=2
export JAX_COMPILATION_CACHE_DIR=$WORK/cache XDG_CACHE_HOME=$WORK/user_cache
if [[ -n $SMOKE ]]; then export JAX_PLATFORMS=cpu; fi
export GPU_CHECK_SMOKE=$SMOKE GPU_CHECK_WORK=$WORK
if [[ -z ${DIGITS_JAX_DATA:-} && -f .gpu/optdigits.csv ]]; then
    export DIGITS_JAX_DATA=$PWD/.gpu/optdigits.csv
fi

# ------------------------------------------------------------------------------------------- steps
left() { echo $((TOTAL - ($(date +%s) - STARTED))); }

report() { echo "$1" | tee -a "$RESULTS"; }

# step NAME SECONDS COMMAND...
step() {
    local name=$1 limit=$2 rest began rc
    shift 2
    if [[ -n ${GPU_CHECK_STEPS:-} && " $GPU_CHECK_STEPS " != *" $name "* ]]; then return; fi
    if [[ -n $SMOKE ]]; then limit=$((limit * 8)); fi # a CPU, and perhaps a shared one
    rest=$(left)
    if ((rest < 12)); then
        report "{\"step\": \"$name\", \"skipped\": \"no time left\"}"
        return
    fi
    ((limit > rest - 5)) && limit=$((rest - 5))
    echo "=== $name (limit $limit s, left $rest s)" | tee -a "$LOG"
    began=$(date +%s)
    GPU_CHECK_STEP=$name timeout --kill-after=5 "$limit" "$@" \
        >"$WORK/$name.out" 2>"$WORK/$name.err"
    rc=$?
    grep '^{' "$WORK/$name.out" | tee -a "$RESULTS" | cut -c1-420
    {
        grep -v '^{' "$WORK/$name.out" | tail -c 6000
        tail -c 20000 "$WORK/$name.err"
    } >>"$LOG"
    report "{\"step\": \"$name\", \"rc\": $rc, \"seconds\": $(($(date +%s) - began))}"
    if ((rc != 0)); then tail -n 4 "$WORK/$name.err" | cut -c1-400; fi
}

steps() { step "$1" "$2" "$PY" "$HERE/gpu_steps.py" "${@:3}"; }

# variant NAME SECONDS OPTIONS...: the training program with something changed
variant() { steps "$1" "$2" throughput "${@:3}" --label "$1" --no-evaluate; }

if [[ -n $SMOKE ]]; then
    steps env 40 env
    steps ceilings 45 ceilings
    steps throughput 200 throughput notebook 5,10 --calls 1
    steps whole_job 100 whole_job
    steps accuracy_notebook 60 accuracy notebook --epochs 2
    steps accuracy_strong 80 accuracy strong --epochs 1
    steps parity 60 parity
    steps peers 60 peers eager
    steps profile 60 profile
    steps resume 80 resume
    steps restore_on_cpu 40 restore
    steps tests 80 tests
    steps forms 60 forms notebook:2:gpu-forms notebook:2:xla-forms
    steps networks 60 networks lenet:12:1:2:gpu-forms
    variant options 40 notebook 8 --vmap-size 2 --epochs-per-call 2 --precision highest --calls 1
    for change in cpu-forms; do
        variant "$change" 40 notebook 2 --change "$change" --calls 1
    done
else
    steps env 40 env
    steps ceilings 45 ceilings
    steps throughput 150 throughput notebook 5,50,500,5000
    steps whole_job 100 whole_job
    steps accuracy_notebook 60 accuracy notebook
    steps accuracy_strong 80 accuracy strong
    steps parity 60 parity
    JAX_PLATFORMS=cpu steps peers 60 peers eager # JAX only makes the folds
    steps resume 80 resume
    JAX_PLATFORMS=cpu steps restore_on_cpu 40 restore
    steps tests 130 tests
    # For another day, or what remains of the time: those that say the most first.
    steps resume_anew 100 resume_anew
    # Without CUDA graphs, so that each kernel is seen by its name.
    XLA_FLAGS=--xla_gpu_enable_command_buffer= steps profile 60 profile
    # What a network is computed by.
    steps forms 200 forms {notebook,strong}:{5,50,500}:{gpu,xla}-forms
    # Larger images.
    steps networks 150 networks {lenet:28:1,vgg:28:1,vgg:32:3}:{5,50}:{gpu,xla}-forms
    steps strong 70 throughput strong 5000 --calls 2
    variant highest 45 notebook 5,500 --precision highest --calls 2
    variant ten_epochs_a_call 35 notebook 5 --epochs-per-call 10
    XLA_FLAGS=--xla_gpu_enable_command_buffer=+WHILE variant epoch_as_one_graph 35 notebook 5,50
    variant groups_of_64 40 notebook 512 --vmap-size 64 --calls 2
    variant cpu_forms 30 notebook 500 --change cpu-forms --calls 2
    XLA_FLAGS=--xla_gpu_enable_triton_gemm=false variant cublas 35 notebook 500
    JAX_PLATFORMS=cpu steps torch_compile 80 peers compile
    steps accuracy_highest 40 accuracy notebook --precision highest
    steps accuracy_seed_1 40 accuracy notebook --seed 1 --epochs-per-call 10
fi

# A checkpoint that the GPU wrote, to be read elsewhere.
newest=$(ls "$WORK/whole/checkpoints" 2>/dev/null | grep -E '^[0-9]+$' | sort -n | tail -n 1)
if [[ -n $newest ]]; then
    files=("whole/checkpoints/$newest" whole/predictions.npz whole/results.json)
    tar czf "$OUT/checkpoint.tgz" -C "$WORK" "${files[@]}" 2>>"$LOG"
    (($(stat -c %s "$OUT/checkpoint.tgz") < 16000000)) || rm -f "$OUT/checkpoint.tgz"
fi
report "{\"step\": \"all\", \"seconds\": $(($(date +%s) - STARTED))}"
