#include <fmt/format.h>
#include <mpi.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <exception>

#include "comm/communicator.h"
#include "comm/mpi_version.h"
#include "core/error.h"

namespace thresher::comm {

bool is_launched_by_mpi() {
  const auto has = [](const char* name) { return std::getenv(name) != nullptr; };
  if (has("OMPI_COMM_WORLD_SIZE") || has("PMI_SIZE") || has("PMIX_RANK")) return true;
  // srun sets SLURM_* for every program; only with a PMI library can its tasks find each other.
  return has("SLURM_STEP_NUM_TASKS") && (has("PMI_RANK") || has("PMI_FD") || has("PMIX_NAMESPACE"));
}

MpiEnvironment::MpiEnvironment() : uncaught_exceptions_(std::uncaught_exceptions()) {
  int is_initialized = 0;
  MPI_Initialized(&is_initialized);
  THRESHER_CHECK(is_initialized == 0, "MpiEnvironment: MPI was started before");
  int provided = 0;
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_MULTIPLE, &provided) != MPI_SUCCESS) {
    throw CommError("MPI_Init_thread failed", {}, "run under mpirun or srun of the same MPI");
  }
  if (provided < MPI_THREAD_MULTIPLE) {
    MPI_Finalize();
    throw CommError(fmt::format("MPI gives thread level {}", provided),
                    fmt::format("MPI_THREAD_MULTIPLE ({})", MPI_THREAD_MULTIPLE),
                    "use an MPI built with thread support");
  }
}

MpiEnvironment::~MpiEnvironment() {
  // MPI_Finalize waits for all ranks. On the way out of an error they may never come; ending
  // without it makes the launcher end them.
  if (std::uncaught_exceptions() > uncaught_exceptions_) return;
  int is_finalized = 0;
  MPI_Finalized(&is_finalized);
  if (is_finalized == 0) MPI_Finalize();
}

void MpiEnvironment::abort(int code) {
  std::fflush(nullptr);
  int is_initialized = 0, is_finalized = 0;
  MPI_Initialized(&is_initialized);
  MPI_Finalized(&is_finalized);
  if (is_initialized != 0 && is_finalized == 0) MPI_Abort(MPI_COMM_WORLD, code);
  _exit(code);
}

std::string mpi_library_version() {
  char text[MPI_MAX_LIBRARY_VERSION_STRING] = {};
  int length = 0;
  if (MPI_Get_library_version(text, &length) != MPI_SUCCESS) return "unknown";
  const std::string whole(text, static_cast<std::size_t>(length));
  return whole.substr(0, whole.find_first_of(",\n"));
}

std::string mpi_compiled_version() {
#ifdef OMPI_MAJOR_VERSION
  return fmt::format("Open MPI v{}.{}.{}", OMPI_MAJOR_VERSION, OMPI_MINOR_VERSION,
                     OMPI_RELEASE_VERSION);
#else
  return fmt::format("an MPI of standard {}.{}", MPI_VERSION, MPI_SUBVERSION);
#endif
}

}  // namespace thresher::comm
