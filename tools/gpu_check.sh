#!/usr/bin/env bash
# Everything that needs a GPU, in parts, with results for bench/results/: OUT_DIR/gpu_check.json and gpu_check.md.
#
#   tools/gpu_check.sh OUT_DIR                            all parts
#   PARTS="tests bench" tools/gpu_check.sh OUT_DIR        some (what was built before in BUILD_DIR is kept)
#
#   tests      every CUDA kernel against the CPU's: device_check, and kernels_gpu_test where GoogleTest is
#   operators  the PyTorch operators on CUDA tensors
#   sanitizer  compute-sanitizer: memcheck, racecheck, initcheck, synccheck
#   nccl       comm_nccl_test with two ranks on one GPU, told apart by NCCL_HOSTID, where the layer comm can be built
#   job        a short `thresher run --set run.device=cuda` of configs/smollm2-topk.yaml, where the program is built with CUDA
#   step       sae_gpu_test, trainer_gpu_test and tests/pipeline/gpu_test.py, beside that program
#   bench      time of every kernel and of all in a step (bench/gpu_bench.cpp) beside PyTorch (bench/gpu_step.py), and
#              `thresher bench step --device cuda` where that program is
#
# Needs nvcc, CMake and a GPU; a python3 with PyTorch for operators and bench (tools/gpu_kernels says more). A part that
# lacks what it needs is reported as left out. THRESHER is the program for `job` (build/cuda-release/bin/thresher).
# Exit code: 0 all passed; 1 a part failed, or there is no GPU; 64 usage.
set -uo pipefail
if [ $# -ne 1 ] || [[ "$1" == -* ]]; then
  echo "usage: [PARTS='tests operators sanitizer nccl job step bench'] tools/gpu_check.sh OUT_DIR" >&2
  exit 64
fi
mkdir -p "$1" || exit 74
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 70
build=${BUILD_DIR:-build/gpu-kernels}
jobs=${JOBS:-$(nproc)}
python=${PYTHON:-python3}
thresher=${THRESHER:-build/cuda-release/bin/thresher}
parts=" ${PARTS:-tests operators sanitizer nccl job step bench} "
sizes=${SIZES:-A B C G}
: >"$out/parts.txt"

wanted() { [[ "$parts" == *" $1 "* ]]; }
note() {  # note PART VERDICT [WHY]
  echo "$*" >>"$out/parts.txt"
  echo "gpu_check: $*"
}
# try PART LOG COMMAND...: passed or failed by the exit code; a GoogleTest case that was skipped has not passed
try() {
  local part=$1 log=$2
  shift 2
  if ! "$@" >"$out/$log" 2>&1; then
    note "$part" failed "see $log"
  elif grep -q '\[  SKIPPED \]' "$out/$log"; then
    note "$part" failed "tests were skipped, see $log"
  else
    note "$part" passed
  fi
}

echo "gpu_check: building in $build (log: $out/build.log)"
generator=()
if command -v ninja >/dev/null; then generator=(-G Ninja); fi
if ! { cmake -S tools/gpu_kernels -B "$build" "${generator[@]}" -Wno-dev -DCMAKE_BUILD_TYPE=Release \
         -DTHRESHER_PYTHON="$(command -v "$python")" &&
       cmake --build "$build" -j "$jobs"; } >"$out/build.log" 2>&1; then
  tail -n 30 "$out/build.log" >&2
  note build failed "see build.log"
fi
bin=$build/bin

if wanted tests && [ -x "$bin/device_check" ]; then
  try device_check device_check.log "$bin/device_check"
  cat "$out/device_check.log"
  if [ -x "$bin/kernels_gpu_test" ]; then
    try kernels_gpu_test tests.log "$bin/kernels_gpu_test" --gtest_brief=1
  else
    note kernels_gpu_test left-out "no GoogleTest"
  fi
fi

if wanted operators; then
  if [ -f "$build/lib/libthresher_operators.so" ]; then
    try operators operators.log env THRESHER_OPERATORS="$build/lib/libthresher_operators.so" \
      THRESHER_OPERATORS_DEVICE=cuda "$python" tests/operators/operators_test.py
  else
    note operators left-out "no PyTorch"
  fi
fi

if wanted sanitizer; then
  if command -v compute-sanitizer >/dev/null; then
    for tool in memcheck racecheck initcheck synccheck; do
      # A sanitizer slows down a hundredfold: three rounds of random shapes meet every kernel.
      try "$tool" "$tool.log" compute-sanitizer --tool "$tool" --error-exitcode 9 "$bin/device_check" 3
    done
  else
    note sanitizer left-out "no compute-sanitizer; it comes with the CUDA toolkit"
  fi
fi

if wanted nccl; then
  comm=build/gpu-comm
  if ! command -v mpirun >/dev/null || ! cmake -S . -B $comm "${generator[@]}" -Wno-dev -DCMAKE_BUILD_TYPE=Release \
         -DTHRESHER_CUDA=ON "-DTHRESHER_LAYERS=core;comm" >"$out/comm.log" 2>&1; then
    note nccl left-out "the layer comm cannot be configured here, see comm.log"
  elif ! cmake --build $comm -j "$jobs" --target comm_nccl_test >>"$out/comm.log" 2>&1; then
    note nccl failed "see comm.log"
  else
    # shellcheck disable=SC2016
    try nccl nccl.log env OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1 \
      mpirun -n 2 bash -c 'NCCL_HOSTID=rank$OMPI_COMM_WORLD_RANK exec "$0" --gtest_brief=1' "$comm/bin/comm_nccl_test"
  fi
fi

if wanted job; then
  if [ -x "$thresher" ] && [ -f configs/smollm2-topk.yaml ]; then
    try job job.log "$thresher" run configs/smollm2-topk.yaml --set run.device=cuda --set run.name=gpu-check --fresh \
      --set train.total_tokens=64k --set train.warmup_tokens=4k --set train.decay_tokens=8k
  else
    note job left-out "no program with CUDA at $thresher"
  fi
fi

if wanted step; then
  for program in sae_gpu_test trainer_gpu_test; do
    if [ -x "$(dirname "$thresher")/$program" ]; then
      try $program $program.log "$(dirname "$thresher")/$program"
    else
      note $program left-out "not built beside $thresher"
    fi
  done
  if [ -x "$thresher" ] && [ -x build/venv/bin/python ]; then
    try pipeline pipeline.log env THRESHER_SOURCE_DIR="$PWD" THRESHER_BIN="$(dirname "$(realpath "$thresher")")" \
      THRESHER_PYTHON="$PWD/build/venv/bin/python" OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 \
      OMPI_MCA_rmaps_base_oversubscribe=1 build/venv/bin/python tests/pipeline/gpu_test.py
  else
    note pipeline left-out "no program with CUDA at $thresher, or no build/venv"
  fi
fi

if wanted bench; then
  for size in $sizes; do
    try "bench-$size" "bench-$size.json" "$bin/gpu_bench" "$size"
    if [ -x "$thresher" ]; then
      try "step-$size" "step-$size.json" "$thresher" bench step --device cuda --size "$size" --json
    else
      note "step-$size" left-out "no program with CUDA at $thresher"
    fi
    if "$python" -c "import torch" 2>/dev/null; then
      try "torch-$size" "torch-$size.json" "$python" bench/gpu_step.py "$size"
    else
      note "torch-$size" left-out "no PyTorch"
    fi
  done
fi

"$python" tools/gpu_check_report.py "$out" "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
