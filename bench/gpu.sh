#!/usr/bin/env bash
# Everything that needs a GPU, in under nine minutes: builds the extension in place, tests, sanitizes, measures.
# From the repository's root; results go to ${OUT:-bench/results}/<name of the GPU>. What fails is told in the last lines.
set -uo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
DEVICE=${DEVICE:-cuda} # cpu tries the script out
OUT=${OUT:-bench/results}
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore::UserWarning TORCH_CUDA_ARCH_LIST=${TORCH_CUDA_ARCH_LIST:-native}
summary=()
began=$SECONDS

step() { # name, most seconds, command ...
  local name=$1 most=$2 from=$SECONDS
  shift 2
  echo "== $name"
  if timeout "$most" "$@"; then
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

step "tests marked gpu" 90 $PYTHON -m pytest -q -m gpu
step "operators' tests" 150 $PYTHON -m pytest -q tests/ops --ignore tests/ops/test_cpu_kernels.py --ignore tests/ops/test_native_loading.py
for tool in memcheck racecheck; do
  if [ "$DEVICE" = cuda ] && command -v compute-sanitizer > /dev/null; then
    step "compute-sanitizer $tool" 60 compute-sanitizer --target-processes all --tool "$tool" --error-exitcode 3 \
      env PYTORCH_NO_CUDA_MEMORY_CACHING=1 PYTHONPATH="$PWD:$PWD/tests" "$PYTHON" tests/ops/small_calls.py
  fi
done
measure() { step "bench $*" 150 $PYTHON -m bench "$@" --device "$DEVICE" --threads 2 --no-compile --output "$folder"; }
measure adapter --dtype float32 bfloat16
measure generate lora_linear overhead --quick --dtype float32 bfloat16
[ $((SECONDS - began)) -lt 420 ] && measure step mixed --quick --dtype bfloat16

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
