#!/usr/bin/env bash
# Builds the CUDA kernels and runs everything labelled gpu, then the same program under compute-sanitizer, and writes
# OUT_DIR/gpu_check.json and OUT_DIR/gpu_check.md. Needs nvcc and a GPU; LibTorch is not needed.
#
#   tools/gpu_check.sh OUT_DIR
#
# Exit code: 0 all passed; 1 a test failed, was skipped (no GPU) or a sanitizer found something; 64 usage.
set -uo pipefail
if [ $# -ne 1 ] || [[ "$1" == -* ]]; then
  echo "usage: tools/gpu_check.sh OUT_DIR" >&2
  exit 64
fi
mkdir -p "$1" || exit 74
out=$(cd "$1" && pwd)
cd "$(dirname "$0")/.." || exit 70
build=${BUILD_DIR:-build/gpu-check}
jobs=${JOBS:-$(nproc)}

echo "gpu_check: building in $build (log: $out/build.log)"
if ! { cmake -S . -B "$build" -G Ninja -Wno-dev -DCMAKE_BUILD_TYPE=Release -DTHRESHER_CUDA=ON \
         "-DTHRESHER_LAYERS=core;comm;kernels" &&
       cmake --build "$build" -j "$jobs" --target kernels_test kernels_gpu_test; } >"$out/build.log" 2>&1; then
  tail -n 30 "$out/build.log" >&2
  echo "gpu_check: the build failed, see $out/build.log" >&2
  exit 1
fi

echo "gpu_check: running the tests labelled gpu (log: $out/tests.log)"
ctest --test-dir "$build" -L gpu --output-on-failure --output-junit "$out/tests.xml" >"$out/tests.log" 2>&1
tail -n 3 "$out/tests.log"

sanitizer=$(command -v compute-sanitizer || true)
: >"$out/sanitizer.txt"
if [ -n "$sanitizer" ]; then
  for tool in memcheck racecheck initcheck synccheck; do
    echo "gpu_check: compute-sanitizer --tool $tool (log: $out/$tool.log)"
    # The sweeps over random shapes are left to the plain run: a sanitizer slows them down a hundredfold.
    if "$sanitizer" --tool "$tool" --error-exitcode 9 "$build/bin/kernels_gpu_test" \
         --gtest_filter='-*Random*:*ReferenceBitForBit*' >"$out/$tool.log" 2>&1; then
      echo "$tool clean" >>"$out/sanitizer.txt"
    else
      echo "$tool failed" >>"$out/sanitizer.txt"
    fi
  done
else
  echo "gpu_check: no compute-sanitizer on this machine; it comes with the CUDA toolkit"
fi

python3 tools/gpu_check_report.py "$out" "$(git rev-parse HEAD 2>/dev/null || echo unknown)"
