# shellcheck shell=bash
# What the launch scripts share. Sourced, never run: sets THRESHER, the environment (env.sh) and these functions.

launch_dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=launch/env.sh
source "$launch_dir/env.sh"

say() { printf '%(%H:%M:%S)T launch: %s\n' -1 "$*" >&2; }
give_up() { say "$2"; exit "$1"; }

# Sets THRESHER to the program: as given, built beside these scripts, installed beside them, or on PATH.
find_thresher() {
  local candidate
  for candidate in ${THRESHER:+"$THRESHER"} "$launch_dir/../build/bin/thresher" "$launch_dir/../bin/thresher" \
      "$launch_dir/../build/cpu-release/bin/thresher" "$(command -v thresher || true)"; do
    if [ -x "$candidate" ]; then THRESHER=$candidate; return; fi
    [ -z "${THRESHER:-}" ] || give_up 78 "THRESHER=$THRESHER is not a program"
  done
  give_up 78 "no thresher: build it (make build) or set THRESHER=/path/to/thresher"
}

# --- one stage: what to run, and how it ended -------------------------------------------------------------------------

# set_stage ATTEMPT COMMAND SUBJECT OPTION...: sets `stage` (the words to launch) and `subject` (for `thresher status`).
# --fresh counts for the first attempt alone: a later one continues.
set_stage() {
  local attempt=$1 previous='' word
  shift
  [ $# -ge 2 ] || give_up 64 "a COMMAND (run, harvest, train, eval) and an EXPERIMENT.yaml are needed"
  stage=("$THRESHER") subject=("$2")
  for word in "$@"; do
    [ "$word" = --fresh ] && [ "$attempt" -gt 0 ] || stage+=("$word")
    case "$previous" in --set) subject+=(--set "$word") ;; esac
    case "$word" in --set=*) subject+=("$word") ;; esac
    previous=$word
  done
}

status_json() { "$THRESHER" status "${subject[@]}" --json 2>/dev/null || true; }

# verdict LAUNCHED BEFORE: prints the exit code to act on. LAUNCHED is what mpirun or srun returned, which may be 137 for a
# rank that ended with 7; RUN/status.json says what was meant, if it says other things than BEFORE the stage (compared
# by content: clocks of hosts differ). A run that still says "running" when its launcher is back was killed at work; one
# that says nothing new and died of the USR1 it was sent (138) had not begun.
verdict() {
  local code=$1
  if [ "$code" -ne 0 ] && [ "$(status_json)" != "$2" ]; then
    local said
    said=$("$THRESHER" status "${subject[@]}" --code 2>/dev/null) || said=running
    case "$said" in running | none | 0) code=70 ;; *) code=$said ;; esac
  elif [ "$code" -eq 138 ] && [ "$stops" -gt 0 ]; then
    code=75
  fi
  case "$code" in 0 | 64 | 65 | 70 | 74 | 75 | 78) ;; *) code=70 ;; esac
  echo "$code"
}

# is_worth_another_try CODE ATTEMPT: stopped with everything saved, or a rank was lost; and not too often yet.
max_restarts=${THRESHER_MAX_RESTARTS:-20}
is_worth_another_try() {
  case "$1" in 70 | 75) ;; *) return 1 ;; esac
  if [ "$2" -ge "$max_restarts" ]; then
    say "restarted $2 times already (THRESHER_MAX_RESTARTS=$max_restarts): not again"
    return 1
  fi
}

# --- signals ----------------------------------------------------------------------------------------------------------

stops=0  # signals to this script

# await PID: waits for it through any number of signals (each ends `wait` early) and returns its code.
await() {
  local before code
  while :; do
    before=$stops code=0
    wait "$1" || code=$?
    [ "$before" -ne "$stops" ] || return "$code"
  done
}

# run_and_save_on_signal COMMAND...: INT (Ctrl-C), TERM, HUP and USR1 to this script become USR1 to COMMAND, upon which
# every rank saves and ends with 75; mpirun itself would answer TERM and INT by killing its ranks a second later. The
# next signal ends COMMAND at once. Returns COMMAND's code.
#
# COMMAND gets a session of its own, since a terminal sends Ctrl-C to all processes of the one it is in, and is ended if
# this script dies, since nobody would look after it.
run_and_save_on_signal() {
  local guard=() code=0
  setpriv --pdeathsig TERM true 2>/dev/null && guard=(setpriv --pdeathsig TERM)
  setsid "${guard[@]}" "$@" <&0 &
  child=$!
  trap on_stop INT TERM HUP USR1
  await "$child" || code=$?
  trap - INT TERM HUP USR1
  [ "$stops" -gt 0 ] || [ "$code" -eq 0 ] || say "the launcher returned $code"
  return "$code"
}

on_stop() {
  stops=$((stops + 1))
  if [ "$stops" -eq 1 ]; then
    say "stopping: the ranks save (once more to end them at once)"
    kill -USR1 "$child" 2>/dev/null || true
  else
    say "ending the ranks without saving"
    kill -TERM "$child" 2>/dev/null || true
  fi
}

# stop_after SECONDS: the same as a signal to this script after so long, for batch systems that send none in time.
stop_after() {
  local script=$$
  # In the background, without the outputs, so that nobody who reads them waits for the sleep.
  (trap 'kill "$sleeper" 2>/dev/null' TERM; sleep "$1" & sleeper=$!; wait "$sleeper" && kill -USR1 "$script") \
    </dev/null >/dev/null 2>&1 &
  timer=$!
}

# set_mpirun RANKS [HOSTFILE]: sets `mpirun`, the words before the program.
set_mpirun() {
  local name
  # --bind-to none: Open MPI would bind each of two ranks to one core, and a rank has as many threads as it is bound to.
  mpirun=(mpirun -n "$1" --bind-to none)
  if [ -n "${2:-}" ]; then
    mpirun+=(--hostfile "$2")
  elif [ -z "${OMPI_MCA_orte_default_hostfile:-}" ]; then
    mpirun+=(--oversubscribe)
  fi
  # Ranks on other hosts get OMPI_* by themselves and nothing else.
  for name in $(compgen -e | grep -E '^(NCCL|OMP|GOMP|MKL|CUBLAS|TORCH|THRESHER)_' || true); do
    mpirun+=(-x "$name")
  done
  local more
  read -ra more <<< "${THRESHER_MPIRUN_OPTIONS:-}"
  mpirun+=("${more[@]}")
}

# --- Slurm ------------------------------------------------------------------------------------------------------------

# slurm_stage COMMAND SUBJECT OPTION...: one batch job. Ends with the verdict, or requeues the job.
slurm_stage() {
  [ -n "${SLURM_JOB_ID:-}" ] || give_up 64 "submit with sbatch"
  local attempt=${SLURM_RESTART_COUNT:-0} before launched=0 code
  find_thresher
  set_stage "$attempt" "$@"
  say "job $SLURM_JOB_ID, attempt $((attempt + 1)), $SLURM_NTASKS ranks on $SLURM_JOB_NODELIST: ${stage[*]}"
  [ "$attempt" -eq 0 ] || clean_stale_pmix
  before=$(status_json)
  # The ranks have their own signals; this script lives on to see how they end. (bash runs a trap only between commands
  # or in `wait`, hence srun in the background.)
  trap 'stops=$((stops + 1))' TERM USR1 INT
  # --wait: with a rank dead on one node Slurm would let those on other nodes wait for it.
  srun --mpi="${THRESHER_SRUN_MPI:-pmix}" --wait=5 ${SLURM_CPUS_PER_TASK:+--cpus-per-task="$SLURM_CPUS_PER_TASK"} "${stage[@]}" &
  await $! || launched=$?
  code=$(verdict "$launched" "$before")
  say "srun returned $launched, $("$THRESHER" status "${subject[@]}" | head -n 1): $code"
  # Not after scancel, and not where Slurm requeues by itself (node loss, preemption).
  local state
  state=$(squeue -h -j "$SLURM_JOB_ID" -o %T 2>/dev/null || true)
  if [ "$state" = RUNNING ] && is_worth_another_try "$code" "$attempt"; then
    say "requeueing"
    scontrol requeue "$SLURM_JOB_ID" && sleep 60  # Slurm ends this script meanwhile
  fi
  exit "$code"
}

# A node that went down leaves PMIx' folder of this job behind, and the job's next step there would fail over it.
clean_stale_pmix() {
  local folders
  folders=$(scontrol show config | sed -n 's/^TmpFS *= *//p')
  # shellcheck disable=SC2016  # expanded on the nodes
  srun --mpi=none --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 bash -c '
    shopt -s nullglob
    tmp=${0//%n/${SLURMD_NODENAME:-}}; tmp=${tmp//%h/$(hostname -s)}
    rm -rf "$tmp"/spmix_appdir_*_"$SLURM_JOB_ID".* /tmp/spmix_appdir_*_"$SLURM_JOB_ID".*' "${folders:-/tmp}" ||
    say "the nodes could not be cleaned of an earlier attempt; going on"
}

# --- PBS --------------------------------------------------------------------------------------------------------------

# pbs_stage SCRIPT COMMAND SUBJECT OPTION...: one batch job over ssh, as Debian's Open MPI knows nothing of PBS. Ends with
# the verdict; a job that should go on is put back by qrerun, or where a user may not do that, submitted anew.
pbs_stage() {
  local script=$1 attempt=${THRESHER_ATTEMPT:-0} before launched=0 code ranks limit
  shift
  [ -r "${PBS_NODEFILE:-}" ] || give_up 64 "submit with qsub"
  find_thresher
  set_stage "$attempt" "$@"
  hostfile=$(mktemp)
  trap 'rm -f "$hostfile"' EXIT
  sort "$PBS_NODEFILE" | uniq -c | awk '{ print $2, "slots=" $1 }' > "$hostfile"
  ranks=$(grep -c . "$PBS_NODEFILE")
  set_mpirun "$ranks" "$hostfile"
  before=$(status_json)
  limit=$(pbs_seconds_left)
  say "job $PBS_JOBID, attempt $((attempt + 1)), $ranks ranks${limit:+, stopping after $limit s}: ${stage[*]}"
  [ -z "$limit" ] || stop_after "$limit"
  run_and_save_on_signal "${mpirun[@]}" "${stage[@]}" || launched=$?
  [ -z "$limit" ] || kill "$timer" 2>/dev/null || true
  code=$(verdict "$launched" "$before")
  say "mpirun returned $launched, $("$THRESHER" status "${subject[@]}" | head -n 1): $code"
  if is_worth_another_try "$code" "$attempt"; then
    say "submitting again"
    qrerun "$PBS_JOBID" 2>/dev/null ||
      qsub -v "EXPERIMENT=$2,OPTIONS=${OPTIONS:-},THRESHER_ATTEMPT=$((attempt + 1))" "$script"
  fi
  exit "$code"
}

# Seconds until the ranks must save: the job's time limit less THRESHER_SAVE_SECONDS; nothing without a limit.
pbs_seconds_left() {
  local limit
  limit=$(qstat -f "$PBS_JOBID" 2>/dev/null | sed -n 's/^ *Resource_List.walltime = //p')
  [ -n "$limit" ] || return 0
  awk -F: -v save="${THRESHER_SAVE_SECONDS:-300}" '{ s = 0; for (i = 1; i <= NF; ++i) s = s * 60 + $i
    s -= save; print (s > 1 ? s : 1) }' <<< "$limit"
}
