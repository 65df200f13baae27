#!/usr/bin/env bash
# Everything that needs a GPU, in calls of nine minutes at most, from the repository's root: bench/gpu.sh [WORD ...]
# [--again] [--fresh] [--list]; see bench/gpu/__main__.py.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH=$PWD PYTHONWARNINGS=ignore::UserWarning PYTHONFAULTHANDLER=1
if [ "${DEVICE:-cuda}" = cuda ]; then
  eval "$($PYTHON bench/cuda_check.py --environment)"
  : "${TORCH_CUDA_ARCH_LIST:=$($PYTHON -c 'import torch; print("{}.{}".format(*torch.cuda.get_device_capability()))')}"
  export TORCH_CUDA_ARCH_LIST
fi
exec "$PYTHON" -m bench.gpu "$@"
