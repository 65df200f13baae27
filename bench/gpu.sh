#!/usr/bin/env bash
# Everything that needs a GPU, in nine minutes at most: builds the extension in place, tests, measures, sanitizes.
# From the repository's root: bench/gpu.sh [WORD ...] takes the steps whose names have a WORD in them; all of them if none.
# Results go to ${OUT:-bench/results}/<name of the GPU>. What fails, and what the time was too short for, is told last.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda} # cpu tries the script out
OUT=${OUT:-bench/results}
PATIENCE=${PATIENCE:-1} # multiplies all limits, for a slow machine
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore::UserWarning TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-native}
words=("$@")
summary=()
began=$SECONDS

wanted() { # name
  local word
  for word in "${words[@]:-}"; do
    [[ $1 == *"$word"* ]] && return 0
  done
  return 1
}

step() { # name, most seconds, command ...
  local name=$1 most=$(($2 * PATIENCE)) from=$SECONDS left=$((540 * PATIENCE - SECONDS + began))
  shift 2
  wanted "$name" || return
  if [ "$left" -lt 20 ]; then
    summary+=("no time $name")
    return
  fi
  echo "== $name"
  if timeout "$((most < left ? most : left))" "$@"; then
    summary+=("ok      $name ($((SECONDS - from)) s)")
  else
    summary+=("FAILED  $name (status $?, $((SECONDS - from)) s)")
  fi
}

[ "$TORCH_CUDA_ARCH_LIST" = native ] && TORCH_CUDA_ARCH_LIST=$(
  $PYTHON -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()) if torch.cuda.is_available() else "9.0")'
)
folder=$OUT/$($PYTHON -c "import torch; from bench import machine; print(machine.slug(torch.device('$DEVICE')))")
mkdir -p "$folder"
[ "$DEVICE" = cuda ] && eval "$($PYTHON bench/cuda_check.py --environment)" && step build 150 env HYPERLOADER_NATIVE=cuda MAX_JOBS="$(nproc)" $PYTHON setup.py -q build_ext --inplace
$PYTHON -c 'import json, hyperloader; print(json.dumps(hyperloader.build_info(), indent=1))' | tee "$folder/build.json"

# Hundreds of kernels of Triton are compiled: that is a matter of cores.
many=()
[ "$DEVICE" = cuda ] && $PYTHON -c 'import xdist' 2> /dev/null && many=(-n "$(($(nproc) < 12 ? $(nproc) : 12))")
tests() { step "$1" 150 env OMP_NUM_THREADS=2 "$PYTHON" -m pytest -q -rfE "${many[@]}" "${@:2}"; }
tests "tests marked gpu" -m gpu
tests "operators' tests" tests/ops --ignore tests/ops/test_cpu_loops.py --ignore tests/ops/test_native_loading.py -m "not gpu"

measure() { step "bench $*" 170 $PYTHON -m bench "$@" --device "$DEVICE" --threads 2 --no-compile --output "$folder"; }
measure adapter --dtype float32 bfloat16
measure generate lora_linear overhead --quick --dtype float32 bfloat16
measure step mixed --quick --dtype bfloat16

for tool in memcheck racecheck; do
  if [ "$DEVICE" = cuda ] && command -v compute-sanitizer > /dev/null; then
    step "compute-sanitizer $tool" 90 compute-sanitizer --target-processes all --tool "$tool" --error-exitcode 3 \
      env PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHONPATH="$PWD:$PWD/tests" "$PYTHON" tests/helpers/small_calls.py
  fi
done

$PYTHON - "$folder" << 'END'
import sys
from pathlib import Path

from bench import budget, results
from bench.cases import CASES

found = results.read(Path(sys.argv[1]), CASES)
print(budget.table(list(results.runs(found))) if found else "nothing was measured")
END
printf '%s\n' "${summary[@]}" "$((SECONDS - began)) s in all; results in $folder"
[[ "${summary[*]}" != *FAILED* ]]
