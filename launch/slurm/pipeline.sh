#!/usr/bin/env bash
# Harvest, then train, then evaluate, as three jobs that wait for each other:
#
#   launch/slurm/pipeline.sh [--sbatch OPTIONS] [--harvest OPTIONS] [--train OPTIONS] [--eval OPTIONS] EXPERIMENT.yaml [--set KEY=VALUE]...
#
#   --sbatch "--partition=gpu --account=me"        options of sbatch for every job
#   --harvest "--nodes=8 --ntasks-per-node=4"      more of them for one job
#
# Prints the three job numbers. A job that is requeued keeps its number, so those behind it wait on; a job that fails
# ends those behind it.
set -euo pipefail
# shellcheck source=launch/common.sh
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"; }

declare -A options=([all]='' [harvest]='' [train]='' [eval]='')
while [ $# -gt 0 ]; do
  case "$1" in
    --sbatch | --harvest | --train | --eval)
      [ $# -ge 2 ] || give_up 64 "$1 needs a value"
      name=${1#--}
      options[${name/sbatch/all}]=$2
      shift 2 ;;
    -h | --help) usage; exit 0 ;;
    -*) usage >&2; exit 64 ;;
    *) break ;;
  esac
done
[ $# -ge 1 ] || { usage >&2; exit 64; }

find_thresher
"$THRESHER" config check "$@" >&2  # now, not in hours
set_stage 0 train "$@"
run_dir=$(status_json | sed -n 's/^ *"run_dir": "\(.*\)".*/\1/p')
export THRESHER_LAUNCH=$launch_dir THRESHER

# submit STAGE AFTER ARGUMENT...: prints the job's number.
submit() {
  local name=$1 after=$2 words
  shift 2
  read -ra words <<< "${options[all]} ${options[$name]}"
  sbatch --parsable ${after:+--dependency=afterok:"$after" --kill-on-invalid-dep=yes} "${words[@]}" \
    "$launch_dir/slurm/$name.sbatch" "$@"
}
harvest=$(submit harvest '' "$@")
train=$(submit train "$harvest" "$@")
eval=$(submit eval "$train" "$run_dir")
echo "$harvest $train $eval"
