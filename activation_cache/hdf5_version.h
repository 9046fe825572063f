#pragma once

#include <string>

namespace thresher::activation_cache {

/// "1.10.8": the HDF5 library this program was compiled for; hdf5_version() tells the one in use.
std::string hdf5_compiled_version();

}  // namespace thresher::activation_cache
