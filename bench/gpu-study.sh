#!/usr/bin/env bash
# A study on a machine without network, from the repository's root: bench/gpu-study.sh PAYLOAD OUT SECONDS [OPTION ...]
#
# PAYLOAD is from `python -m bench.study.payload`. After SECONDS what is under way ends; the finished runs' files
# lie in OUT/study.tgz, to be unpacked in the repository, and the next call goes on with the rest. On a machine that
# keeps its files, runs go on from their last checkpoints. PLAN, JOBS and PYTHON may be set; options go to bench.study:
# `--steps 20` tries everything, on a CPU as well.
set -euo pipefail
payload=$(realpath "$1") out=$(realpath -m "$2") seconds=$3
shift 3
cd "$(dirname "$0")/.."
: "${PYTHON:=python3}" "${PLAN:=recipes/seven-tasks-study.yaml}" "${JOBS:=$(nproc)}"
[ -d build/payload ] || { mkdir -p build && tar xJf "$payload" -C build; }
export PYTHONPATH=$PWD:$PWD/build/payload/site HYPERLOADER_DATA=$PWD/build/payload/data PYTHONWARNINGS=ignore
# Kernels of several processes share the card only under NVIDIA's multi-process service; without it they take turns.
if mps=$(command -v nvidia-cuda-mps-control || ls /usr/local/nvidia/bin/nvidia-cuda-mps-control 2>/dev/null); then
  export CUDA_MPS_PIPE_DIRECTORY=$PWD/build/mps CUDA_MPS_LOG_DIRECTORY=$PWD/build/mps
  mkdir -p build/mps
  "$mps" -d
  trap 'echo quit | "$mps"' EXIT
fi
"$PYTHON" -m bench.study "$PLAN" --backbone build/payload/minilm --train --jobs "$JOBS" --seconds "$seconds" "$@" || failed=$?
mkdir -p "$out" runs/tried/results
find bench/results/study runs/tried/results -name '*.json' -o -name '*.npz' | tar czf "$out/study.tgz" -T -
exit "${failed:-0}"
