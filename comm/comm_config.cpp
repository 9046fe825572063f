#include "comm/communicator.h"

namespace thresher::comm {

void CommConfig::declare(FieldVisitor& fields) {
  fields.field("backend", backend,
               {.help = "How ranks reach each other; auto is mpi under mpirun or srun, threads if "
                        "comm.ranks exceeds 1, else self",
                .choices = {"auto", "self", "threads", "mpi"}});
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

}  // namespace thresher::comm
