#include "comm/communicator.h"
#include "core/error.h"

namespace thresher::comm {

void CommConfig::declare(FieldVisitor& fields) {
  fields.field("backend", backend,
               {.help = "How ranks reach each other; auto is mpi under mpirun or srun (nccl with "
                        "run.device: cuda and a GPU for each rank), threads if comm.ranks exceeds "
                        "1, else self. nccl is mpi whose sums in GPU memory are NCCL's",
                .choices = {"auto", "self", "threads", "mpi", "nccl"}});
  fields.field("ranks", ranks,
               {.help = "Ranks of the threads backend, all in one process; mpi takes its number "
                        "from the launcher",
                .min = 1,
                .max = 256});
  fields.field("timeout_seconds", timeout_seconds,
               {.help = "Longest wait of one rank for the others inside one call before the job "
                        "ends with exit code 70",
                .unit = "seconds",
                .min = 0,
                .max = 1e6,
                .min_is_exclusive = true});
}

Backend choose_backend(const CommConfig& config, Device device, bool is_launched) {
  if (config.backend == "nccl") {
    if (device != Device::kCuda) {
      throw ConfigError("comm.backend = nccl: run.device is cpu, and NCCL sums GPU memory",
                        "run.device: cuda, or comm.backend: mpi");
    }
    if (!is_launched) {
      throw ConfigError("comm.backend = nccl: this process was not started by mpirun or srun",
                        "a launcher, because ranks find each other through MPI",
                        "start it as mpirun -n RANKS thresher ..., or leave comm.backend out");
    }
    return Backend::kNccl;
  }
  if (config.backend == "mpi") return Backend::kMpi;
  if (config.backend == "threads") return Backend::kThreads;
  if (config.backend == "self") return Backend::kSelf;
  if (is_launched) return device == Device::kCuda ? Backend::kNccl : Backend::kMpi;
  return config.ranks > 1 ? Backend::kThreads : Backend::kSelf;
}

}  // namespace thresher::comm
