#!/usr/bin/env bash
# Makes a job's life hard: hits one of its ranks at random moments until it has ended.
#
#   launch/ci/punish.sh --match TEXT [--mtbf SECONDS] [--failures N] [--signals "KILL STOP USR1"] [--seed S]
#
#   --match TEXT       ranks are the thresher processes on this machine whose command line contains TEXT (a path of the
#                      experiment, say) and whose owner is you
#   --mtbf SECONDS     mean time between failures; each pause is drawn from the exponential distribution (60)
#   --failures N       end after so many (10)
#   --signals LIST     drawn with equal chances (KILL)
#
# Ends with 0 after N failures, or when no rank has been there for a minute; prints a line for each failure.
set -euo pipefail
match='' mtbf=60 failures=10 signals=(KILL) seed=1
while [ $# -gt 0 ]; do
  [ $# -ge 2 ] || { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 64; }
  case "$1" in
    --match) match=$2 ;;
    --mtbf) mtbf=$2 ;;
    --failures) failures=$2 ;;
    --signals) read -ra signals <<< "$2" ;;
    --seed) seed=$2 ;;
    *) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0" >&2; exit 64 ;;
  esac
  shift 2
done
[ -n "$match" ] || { echo "punish: --match is needed: what marks your ranks?" >&2; exit 64; }
RANDOM=$seed

# The ranks, not the shells and launchers whose command lines hold the same words.
ranks() {
  local pid
  for pid in $(pgrep -u "$(id -u)" -x thresher || true); do
    tr '\0' ' ' < "/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$match" && echo "$pid"
  done
  return 0
}

for ((done = 0, idle = 0; done < failures; )); do
  sleep "$(awk -v u="$RANDOM" -v mean="$mtbf" 'BEGIN { print -mean * log((u + 1) / 32769) }')"
  mapfile -t found < <(ranks)
  if [ ${#found[@]} -eq 0 ]; then
    idle=$((idle + 1))
    [ "$(awk -v n="$idle" -v mean="$mtbf" 'BEGIN { print n * mean > 60 }')" = 1 ] && break
    continue
  fi
  idle=0 done=$((done + 1))
  pid=${found[RANDOM % ${#found[@]}]} signal=${signals[RANDOM % ${#signals[@]}]}
  printf '%(%H:%M:%S)T punish: %d of %d: %s to process %s\n' -1 "$done" "$failures" "$signal" "$pid"
  kill -s "$signal" "$pid" 2>/dev/null || true
done
