#!/usr/bin/env bash
# One machine, or a few that ssh reaches: launch/local.sh [-n RANKS] [--hostfile FILE] [--restarts N] COMMAND EXPERIMENT [OPTION]...
#
#   launch/local.sh -n 4 run my-experiment.yaml --set train.total_tokens=2M
#
#   -n RANKS         processes; one without it, or one a GPU
#   --hostfile FILE  over these hosts (hostfile.example), which see the same folders
#   --restarts N     start again up to N times when a rank is lost (exit code 70); 0 without it
#
# Ctrl-C saves and ends with 75; the same command continues. Ctrl-C twice ends at once. So do TERM, HUP (the terminal is
# closed) and USR1. Ends with the exit code that RUN/status.json states.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

count_gpus() { nvidia-smi -L 2>/dev/null | grep -c '^GPU' || true; }

ranks='' hostfile='' restarts=0
while [ $# -gt 0 ]; do
  case "$1" in
    -n | --hostfile | --restarts)
      [ $# -ge 2 ] || give_up 64 "$1 needs a value"
      case "$1" in -n) ranks=$2 ;; --hostfile) hostfile=$2 ;; --restarts) restarts=$2 ;; esac
      shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 64 ;;
    *) break ;;
  esac
done
if [ -z "$ranks" ]; then ranks=$(count_gpus); [ "$ranks" -gt 0 ] || ranks=1; fi
[[ "$ranks" =~ ^[1-9][0-9]*$ ]] || give_up 64 "-n $ranks: expected a number of processes"
[[ "$restarts" =~ ^[0-9]+$ ]] || give_up 64 "--restarts $restarts: expected a number"
[ -z "$hostfile" ] || [ -r "$hostfile" ] || give_up 74 "--hostfile $hostfile cannot be read"

find_thresher
launcher=()
if [ "$ranks" -gt 1 ] || [ -n "$hostfile" ]; then
  command -v mpirun >/dev/null || give_up 78 "mpirun is not on PATH: install openmpi-bin, or use one rank"
  set_mpirun "$ranks" "$hostfile"
  launcher=("${mpirun[@]}")
fi

for ((attempt = 0; ; ++attempt)); do
  set_stage "$attempt" "$@"
  before=$(status_json)
  launched=0
  run_and_save_on_signal "${launcher[@]}" "${stage[@]}" || launched=$?
  code=$(verdict "$launched" "$before")
  [ "$code" -eq 70 ] && [ "$stops" -eq 0 ] && [ "$attempt" -lt "$restarts" ] || exit "$code"
  say "the job was lost ($("$THRESHER" status "${subject[@]}" | head -n 1)); restart $((attempt + 1)) of $restarts"
done
