#!/usr/bin/env bash
# The main job on a real model, from nothing: install, build, fetch, harvest once, train a TopK and a ReLU + L1 SAE
# over that one cache, evaluate both, and print the time of every stage.
set -euo pipefail
cd "$(dirname "$0")/.."

stages=()
stage() {  # stage NAME COMMAND...
  local name=$1 begin=$SECONDS
  shift
  printf '\n== %s\n' "$name" >&2
  "$@"
  stages+=("$(printf '%-22s %4d s' "$name" $((SECONDS - begin)))")
}

build_program() {
  cmake --preset cpu-release -Wno-dev --log-level=WARNING
  cmake --build --preset cpu-release --target thresher -j "${JOBS:-$(nproc)}"
  ln -sfn cpu-release/bin build/bin
}

stage "set-up and fetch" tools/setup.sh demo
stage "build" build_program
stage "TopK SAE" build/bin/thresher run configs/smollm2-topk.yaml
stage "ReLU + L1 SAE" build/bin/thresher run configs/smollm2-relu.yaml

printf '\nTime of each stage\n'
printf '  %s\n' "${stages[@]}" "$(printf '%-22s %4d s' total $SECONDS)"
cat <<'EOF'

Next:
  build/bin/thresher eval runs/smollm2-topk           measure again
  build/bin/thresher cache info caches/smollm2-l14    what was harvested
  mpirun -n 2 build/bin/thresher run configs/smollm2-topk.yaml --fresh    the same bits from two ranks
EOF
