#include "core/system_error.h"

#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <system_error>

#include "core/error.h"
#include "core/visible_text.h"

namespace thresher {
namespace {

std::string_view hint_for(int error_number) {
  switch (error_number) {
    case ENOSPC:
      return "free some space on this file system, or choose another folder, and run again";
    case EDQUOT:
      return "the quota of this user is used up; free some space or choose another folder";
    case ENOENT:
      return "check the path; relative paths start at the current folder";
    case EACCES:
    case EPERM:
      return "check the permissions of the path and of the folders above it";
    default:
      return {};
  }
}

}  // namespace

void throw_system_error(const std::filesystem::path& path, std::string_view operation,
                        int error_number) {
  const bool is_full = error_number == ENOSPC || error_number == EDQUOT;
  const std::string reason = std::generic_category().message(error_number);
  throw IoError(fmt::format("{}: cannot {}: {}{}", display_path(path), operation,
                            is_full ? "disk full: " : "", reason),
                {}, hint_for(error_number));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0) return "unknown";
  return name.data();
}

}  // namespace thresher
