#include "activation_cache/hdf5_handle.h"

#include <fmt/format.h>

#include <mutex>

#include "activation_cache/cache.h"
#include "activation_cache/hdf5_version.h"
#include "core/error.h"

namespace thresher::activation_cache {

namespace {

std::mutex& library_mutex() {
  static std::mutex mutex;
  return mutex;
}
// A recursive mutex would not know its owner again in a forked child.
thread_local int scopes_of_this_thread = 0;

// The innermost description says what the system or the decoder objected to.
herr_t keep_first_description(unsigned, const H5E_error2_t* error, void* text) {
  auto& description = *static_cast<std::string*>(text);
  if (description.empty() && error->desc != nullptr) description = error->desc;
  return 0;
}

}  // namespace

Hdf5Scope::Hdf5Scope() {
  if (scopes_of_this_thread++ == 0) library_mutex().lock();
  H5open();
  H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr);
  H5PLset_loading_state(0);
}

Hdf5Scope::~Hdf5Scope() {
  if (--scopes_of_this_thread == 0) library_mutex().unlock();
}

void throw_hdf5_error(Hdf5Task task, const std::string& path, std::string_view what) {
  std::string reason;
  H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, keep_first_description, &reason);
  H5Eclear2(H5E_DEFAULT);
  if (reason.empty()) reason = "no reason given";
  if (reason.find("No space left on device") != std::string::npos) {
    throw IoError(fmt::format("{}: disk full while {}", path, what), "",
                  "free some space and run again; finished units are kept");
  }
  const bool is_refused_by_system = reason.find("errno = ") != std::string::npos;
  if (task == Hdf5Task::kWriting || is_refused_by_system) {
    throw IoError(fmt::format("{}: {} failed: {}", path, what, reason));
  }
  throw DataError(fmt::format("{}: {} failed: {}", path, what, reason));
}

std::string hdf5_version() {
  const Hdf5Scope scope;
  unsigned major = 0, minor = 0, release = 0;
  if (H5get_libversion(&major, &minor, &release) < 0) return "unknown";
  return fmt::format("{}.{}.{}", major, minor, release);
}

std::string hdf5_compiled_version() {
  return fmt::format("{}.{}.{}", H5_VERS_MAJOR, H5_VERS_MINOR, H5_VERS_RELEASE);
}

}  // namespace thresher::activation_cache
