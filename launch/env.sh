# shellcheck shell=bash
# The environment of a job. Sourced by every launch script; `THRESHER_PROFILE=deterministic` or `debug` before a
# launch chooses a profile. Whatever is set already is kept: `export NAME=VALUE` before a launch wins.

# put NAME VALUE: exports NAME=VALUE unless NAME is set.
put() { [ -n "${!1+set}" ] || export "$1=$2"; }

# --- Open MPI ---------------------------------------------------------------------------------------------------------

# Open MPI refuses to start as root. In a container root is the usual user and harms nobody; both names are asked for.
if [ "$(id -u)" -eq 0 ]; then
  put OMPI_ALLOW_RUN_AS_ROOT 1
  put OMPI_ALLOW_RUN_AS_ROOT_CONFIRM 1
fi

# Ranks of one host copy large messages by process_vm_readv, which containers without SYS_PTRACE refuse with a screen
# of warnings. Copying through shared memory costs nothing that a training step would notice.
put OMPI_MCA_btl_vader_single_copy_mechanism none

# With more ranks than cores a waiting rank must give its core away, or the rank it waits for cannot run.
# Open MPI finds out by itself under mpirun; under srun it does not.
if [ "${SLURM_NTASKS_PER_NODE:-1}" -gt "$(nproc)" ] 2>/dev/null; then
  put OMPI_MCA_mpi_yield_when_idle 1
fi

# --- threads ----------------------------------------------------------------------------------------------------------

# run.threads decides how many threads a rank has (left out: the host's cores divided among its ranks). These keep
# libraries from changing that number by themselves, which would change speed and, for MKL, bits.
put OMP_DYNAMIC false
put MKL_DYNAMIC false

# --- NCCL (builds with CUDA) ------------------------------------------------------------------------------------------

# WARN prints the reason of a failure, which an error code alone does not tell; it is silent when all is well.
put NCCL_DEBUG WARN

# --- for you to set where a cluster needs it --------------------------------------------------------------------------
#
# NCCL_SOCKET_IFNAME=eth0       the interface over which NCCL's ranks first meet. NCCL guesses; with several networks, or
#                               a docker0, it may guess one that other hosts cannot reach: a hang at the first sum.
# NCCL_IB_HCA=mlx5_0,mlx5_1     the InfiniBand cards to use, where one belongs to storage.
# NCCL_IB_DISABLE=1             TCP in the place of InfiniBand: slow, but tells whether the fabric is at fault.
# NCCL_P2P_DISABLE=1            no copies from GPU to GPU: some virtual machines hang in them.
# NCCL_SHM_DISABLE=1            where /dev/shm is tiny (containers have 64 MiB: give them more instead).
# OMPI_MCA_btl_tcp_if_include=10.0.0.0/8, OMPI_MCA_oob_tcp_if_include=10.0.0.0/8
#                               the network of the cluster, by address. Open MPI tries every interface that is up; a bridge
#                               with the same address on each host (docker0, virbr0) makes MPI_Init hang.
# OMPI_MCA_pml=ob1, OMPI_MCA_btl=self,vader,tcp
#                               plain TCP in the place of UCX or libfabric: tells whether the fabric is at fault.
# OMPI_MCA_plm_rsh_args="-p 2222"
#                               options of the ssh that starts ranks on other hosts.
# THRESHER_CPU_ISA=avx2         the same bits on hosts with and without AVX-512: on mixed clusters.
# THRESHER_SRUN_MPI=pmix_v4     another of the kinds that `srun --mpi=list` names.

case "${THRESHER_PROFILE:-}" in
  '') ;;
  deterministic)
    # The CPU needs nothing here: its sums have a fixed order for any number of ranks. On GPUs NCCL chooses algorithm and
    # protocol by message size and topology, and each choice adds in another order; NVLS is not even repeatable.
    put NCCL_ALGO Ring
    put NCCL_PROTO Simple
    put NCCL_NVLS_ENABLE 0
    # cuBLAS shares one workspace between streams by default, and then its products may differ between calls.
    put CUBLAS_WORKSPACE_CONFIG :4096:8
    ;;
  debug)
    # Who connects to whom, over what, and every collective with its size. Large logs: one a rank, beside each other.
    export NCCL_DEBUG=INFO
    put NCCL_DEBUG_SUBSYS INIT,NET,COLL
    put NCCL_DEBUG_FILE nccl-%h-%p.log
    # Each rank's message, where Open MPI would print one and a count.
    put OMPI_MCA_orte_base_help_aggregate 0
    # The stack behind an error of LibTorch.
    put TORCH_SHOW_CPP_STACKTRACES 1
    # A kernel that fails is reported where it was started, not some calls later. Slow.
    put CUDA_LAUNCH_BLOCKING 1
    ;;
  *) printf "launch: THRESHER_PROFILE=%s: expected deterministic or debug\n" "$THRESHER_PROFILE" >&2; exit 64 ;;
esac
