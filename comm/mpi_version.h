#pragma once

#include <string>

namespace thresher::comm {

/// "Open MPI v4.1.4": the library this program was compiled for, in the words in which
/// mpi_library_version() tells the one in use; "an MPI of standard 3.1" for another make.
std::string mpi_compiled_version();

}  // namespace thresher::comm
