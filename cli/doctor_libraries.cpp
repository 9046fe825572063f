#include <fmt/format.h>
#include <link.h>
#include <torch/headeronly/version.h>

#include <algorithm>
#include <array>
#include <string_view>

#include "activation_cache/cache.h"
#include "activation_cache/hdf5_version.h"
#include "cli/doctor.h"
#include "comm/communicator.h"
#include "comm/mpi_version.h"
#include "core/visible_text.h"

namespace thresher::cli {
namespace {

using Status = Check::Status;

/// Paths of the shared libraries in this process.
std::vector<std::string> loaded_libraries() {
  std::vector<std::string> paths;
  dl_iterate_phdr(
      [](dl_phdr_info* info, std::size_t, void* out) {
        if (info->dlpi_name != nullptr && info->dlpi_name[0] == '/') {
          static_cast<std::vector<std::string>*>(out)->push_back(info->dlpi_name);
        }
        return 0;
      },
      &paths);
  return paths;
}

/// Where the library whose file name begins with `name` was loaded from.
std::string path_of(const std::vector<std::string>& paths, const std::string& name) {
  const auto found = std::find_if(paths.begin(), paths.end(), [&](const std::string& path) {
    return std::filesystem::path(path).filename().string().starts_with(name);
  });
  return found == paths.end() ? "linked into the program" : *found;
}

Check compare(const std::string& name, const std::string& compiled, const std::string& loaded,
              const std::string& path) {
  Check check{Status::kOk, name,
              fmt::format("compiled {}, loaded {} from {}", compiled, loaded, path)};
  if (loaded != compiled) {
    check.status = Status::kWarn;
    check.advice =
        "another library than the program was built for: look at LD_LIBRARY_PATH and modules, or "
        "build again";
  }
  return check;
}

/// Libraries from elsewhere than the system and LibTorch: what LD_LIBRARY_PATH, LD_PRELOAD or a
/// module put in the way.
Check check_origins(const std::vector<std::string>& paths) {
  const std::string torch = std::filesystem::path(path_of(paths, "libc10.so")).parent_path();
  const std::array<std::string, 4> usual = {"/lib/", "/lib64/", "/usr/lib", torch + "/"};
  std::string others;
  for (const std::string& path : paths) {
    const auto is_prefix = [&](const std::string& folder) { return path.starts_with(folder); };
    if (std::any_of(usual.begin(), usual.end(), is_prefix)) continue;
    others += (others.empty() ? "" : ", ") + path;
  }
  if (others.empty()) {
    return {Status::kOk, "libraries",
            fmt::format("{} loaded, all from the system and LibTorch", paths.size())};
  }
  return {Status::kOk, "libraries",
          fmt::format("{} loaded, these from elsewhere: {}", paths.size(), visible_text(others))};
}

}  // namespace

std::vector<Check> check_libraries() {
  const std::vector<std::string> paths = loaded_libraries();
  return {compare("mpi library", comm::mpi_compiled_version(), comm::mpi_library_version(),
                  path_of(paths, "libmpi.so")),
          compare("hdf5 library", activation_cache::hdf5_compiled_version(),
                  activation_cache::hdf5_version(), path_of(paths, "libhdf5")),
          {Status::kOk, "torch library",
           fmt::format("compiled {}, loaded {}", TORCH_VERSION, path_of(paths, "libtorch_cpu.so"))},
          check_origins(paths)};
}

}  // namespace thresher::cli
