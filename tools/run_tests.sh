#!/usr/bin/env bash
# The default test tier: set-up, build, CTest; then the CUDA kernels where nvcc is (compiled and run on the host).
set -euo pipefail
cd "$(dirname "$0")/.."
tools/setup.sh test
jobs=${JOBS:-$(nproc)}

cmake --preset cpu-release -Wno-dev --log-level=WARNING
cmake --build --preset cpu-release -j "$jobs"
ln -sfn cpu-release/bin build/bin

if command -v nvcc >/dev/null; then
  cmake -S tools/gpu_kernels -B build/cuda-tests -G Ninja -Wno-dev --log-level=WARNING -DCMAKE_BUILD_TYPE=Release \
        -DTHRESHER_WERROR=ON -DTHRESHER_TORCH_ROOT=
  cmake --build build/cuda-tests -j "$jobs"
  build/cuda-tests/bin/kernels_test --gtest_brief=1
  build/cuda-tests/bin/kernels_gpu_test --gtest_brief=1
else
  echo "run_tests: no nvcc on PATH, the CUDA kernels are not compiled here" >&2
fi
ctest --preset cpu-release
