#!/usr/bin/env bash
# Ends what slurm-up.sh started, with all its jobs: launch/ci/slurm-down.sh DIR; the folder stays. With a node's name it is
# that node which dies, as if its power were cut: launch/ci/slurm-down.sh DIR n2. `slurm-down.sh DIR n2 up` starts it again.
set -euo pipefail
if [ $# -lt 1 ] || [ ! -r "$1/slurm.conf" ]; then sed -n '2,3s/^# \{0,1\}//p' "$0" >&2; exit 64; fi
dir=$(cd "$1" && pwd) node=${2:-}
export SLURM_CONF=$dir/slurm.conf

if [ "${3:-}" = up ]; then
  THRESHER_SLURM_NODE="$dir/$node" slurmd -c -N "$node" </dev/null >>"$dir/log/start.log" 2>&1
  exit
fi

# Process numbers of a node: slurmd, its step daemons (which show no environment) and every process of a job on it.
processes_of() {
  local environment pid parent
  for environment in /proc/[0-9]*/environ; do
    pid=${environment#/proc/}
    pid=${pid%/environ}
    if tr '\0' '\n' 2>/dev/null < "$environment" | awk -v daemon="THRESHER_SLURM_NODE=$dir/$1" -v conf="SLURM_CONF=$SLURM_CONF" \
        -v node="SLURMD_NODENAME=$1" '$0 == daemon { found = 1 } $0 == conf { a = 1 } $0 == node { b = 1 }
        END { exit !(found || (a && b)) }'; then
      parent=$(sed -n 's/^PPid:\t//p' "/proc/$pid/status" 2>/dev/null || true)
      [ "$(cat "/proc/${parent:-0}/comm" 2>/dev/null)" != slurmstepd ] || echo "$parent"
      echo "$pid"
    fi
  done
}

kill_node() {
  local processes
  mapfile -t processes < <(processes_of "$1")
  while [ ${#processes[@]} -gt 0 ]; do  # again: some may just have been starting
    kill -KILL "${processes[@]}" 2>/dev/null || true
    sleep 0.1
    mapfile -t processes < <(processes_of "$1")
  done
}

if [ -n "$node" ]; then
  kill_node "$node"
  exit
fi
for name in slurmctld munged; do
  [ ! -r "$dir/run/$name.pid" ] || kill "$(cat "$dir/run/$name.pid")" 2>/dev/null || true
done
kill_node n1
kill_node n2
for ((i = 0; i < 100; ++i)); do  # slurmctld writes its state before it ends
  [ -e "$dir/run/slurmctld.pid" ] || break
  sleep 0.1
done
