#!/usr/bin/env bash
# A Slurm of two emulated nodes on this machine, for tests: launch/ci/slurm-up.sh DIR, as root. Prints the line to eval:
#
#   eval "$(launch/ci/slurm-up.sh /tmp/slurm)" && sinfo; launch/ci/slurm-down.sh /tmp/slurm
#
# Needs the programs of slurmctld, slurmd, slurm-client and munge; no systemd, no control groups, no database. Uses
# ports from THRESHER_SLURM_PORT (16817) on. Everything lies in DIR, which must not exist.
set -euo pipefail
[ $# -eq 1 ] || { sed -n '2,7s/^# \{0,1\}//p' "$0" >&2; exit 64; }
[ "$(id -u)" -eq 0 ] || { echo "slurm-up: slurmctld and slurmd need root" >&2; exit 69; }
for program in slurmctld slurmd munged srun; do
  command -v "$program" >/dev/null || { echo "slurm-up: $program is not installed" >&2; exit 69; }
done
mkdir "$1"
dir=$(cd "$1" && pwd)
host=$(hostname -s)
port=${THRESHER_SLURM_PORT:-16817}
mkdir -p "$dir"/{run,state,log} "$dir"/{spool,tmp}/{n1,n2}
chmod 755 "$dir" "$dir/run"
dd if=/dev/urandom of="$dir/run/munge.key" bs=1024 count=1 status=none
chmod 600 "$dir/run/munge.key"

# cred_expire: a requeued job may begin once its old credential has expired, after two minutes by default.
# linuxproc, task/none, jobacct_gather/none: the ways that need no control groups.
# TmpFS with %n: both nodes would make the same PMIx folder otherwise.
cat > "$dir/slurm.conf" <<EOF
ClusterName=ci
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
SlurmctldPort=$port
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool/%n
TmpFS=$dir/tmp/%n
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.%n.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=2,batch_sched_delay=0,bf_interval=2
SchedulerTimeSlice=5
ReturnToService=2
KillWait=5
SlurmdTimeout=5
NodeName=n[1-2] NodeHostname=$host NodeAddr=127.0.0.1 Port=[$((port + 4))-$((port + 5))] CPUs=2 RealMemory=100 State=UNKNOWN
PartitionName=ci Nodes=ALL Default=YES MaxTime=INFINITE State=UP
EOF

# The ranks of both nodes share this host's name, loopback and shared memory, which Open MPI would take for one node's,
# and its cores, which a waiting rank must give away.
exports="export SLURM_CONF=$dir/slurm.conf OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,tcp \
OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_mpi_yield_when_idle=1"
eval "$exports"
{
  munged --force --socket="$dir/run/munge.sock" --key-file="$dir/run/munge.key" --seed-file="$dir/run/seed" \
    --pid-file="$dir/run/munged.pid" --log-file="$dir/log/munged.log"
  slurmctld -c
  for node in n1 n2; do THRESHER_SLURM_NODE="$dir/$node" slurmd -c -N "$node"; done
  for ((i = 0; i < 300; ++i)); do
    [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 2 ] && break
    sleep 0.1
  done
} </dev/null >"$dir/log/start.log" 2>&1
if [ "$(sinfo -h -t idle -o %D 2>/dev/null)" != 2 ]; then
  echo "slurm-up: the nodes did not come up within 30 s" >&2
  tail -n 5 "$dir"/log/*.log >&2
  "$(dirname "$0")/slurm-down.sh" "$dir"
  exit 70
fi
echo "$exports"
