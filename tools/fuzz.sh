#!/usr/bin/env bash
# Fuzzes every parser of untrusted bytes with libFuzzer, AddressSanitizer and UBSan.
# Usage: tools/fuzz.sh [SECONDS [PARSER ...]]     SECONDS for each parser (60); all parsers if none is named
# What is found lies in build/fuzz/findings; inputs that reach new code are kept in build/fuzz/corpus. Exit 1 on a finding.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-60}
shift || true
tools/setup.sh fuzz
cmake --preset fuzz -Wno-dev --log-level=WARNING >/dev/null
cmake --build --preset fuzz --target fuzz_all -j "${JOBS:-$(nproc)}"

parsers=("$@")
[ ${#parsers[@]} -gt 0 ] || mapfile -t parsers < <(ls tests/fuzz/corpus | grep -v hdf5)  # see tests/fuzz/parsers.h
mkdir -p build/fuzz/findings build/fuzz/logs

fuzz_one() {
  local parser=$1 seconds=$2 corpus=build/fuzz/corpus/$1
  mkdir -p "$corpus"
  nice -n 10 "build/fuzz/bin/fuzz_$parser" "$corpus" "tests/fuzz/corpus/$parser" -max_total_time="$seconds" \
    -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=512 -max_len=65536 -print_final_stats=1 \
    -artifact_prefix="build/fuzz/findings/$parser-" >"build/fuzz/logs/$parser.log" 2>&1 && return 0
  echo "FINDING: $parser, see build/fuzz/logs/$parser.log" >&2
  return 1
}
export -f fuzz_one

failed=0
printf '%s\n' "${parsers[@]}" | xargs -P "${JOBS:-2}" -I{} bash -c 'fuzz_one {} '"$seconds" || failed=1
printf '%-20s %14s %8s\n' parser executions seconds
for parser in "${parsers[@]}"; do
  awk -v parser="$parser" '/stat::number_of_executed_units/ { runs = $2 } /^Done .* runs in/ { time = $5 }
    END { printf "%-20s %14d %8d\n", parser, runs, time }' "build/fuzz/logs/$parser.log"
done
exit "$failed"
