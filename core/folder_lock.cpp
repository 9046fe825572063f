#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <ctime>
#include <thread>

#include "core/error.h"
#include "core/file_calls.h"
#include "core/files.h"
#include "core/json.h"
#include "core/system_error.h"

namespace thresher {
namespace {

std::string utc_now() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", parts.tm_year + 1900, parts.tm_mon + 1,
                     parts.tm_mday, parts.tm_hour, parts.tm_min, parts.tm_sec);
}

// "harvest on host a, pid 7, since 2026-01-31T12:00:00Z"; empty while the record is not (yet)
// readable.
std::string describe_holder(const std::filesystem::path& path) {
  try {
    const Json record = Json::parse(read_text_file(path, 4096), path.string());
    return fmt::format("{} on host {}, pid {}, since {}", record.at("what").as_string(),
                       record.at("host").as_string(), record.at("pid").as_int(),
                       record.at("start").as_string());
  } catch (const Error&) {
    return {};
  }
}

[[noreturn]] void throw_locked(const std::filesystem::path& folder,
                               const std::filesystem::path& path, std::string_view what) {
  // The holder writes its record right after it has taken the lock; give it that moment.
  std::string holder = describe_holder(path);
  for (int attempt = 0; attempt < 20 && holder.empty(); ++attempt) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    holder = describe_holder(path);
  }
  throw ConfigError(fmt::format("{}: {} cannot start, the folder is locked by {}", folder.string(),
                                what, holder.empty() ? "a process that left no record" : holder),
                    "one process at a time writes into a folder",
                    "wait until it ends or stop it; a killed process leaves no lock behind");
}

}  // namespace

FolderLock::FolderLock(const std::filesystem::path& folder, std::string_view what)
    : path_(folder / "lock"), file_(file_calls::open_file(path_, O_RDWR | O_CREAT | O_NOFOLLOW)) {
  if (!file_) throw_system_error(path_, "open", errno);
  while (flock(file_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EINTR) continue;
    if (errno == EWOULDBLOCK) throw_locked(folder, path_, what);
    throw_system_error(path_, "lock", errno);
  }
  const std::string record = Json::object({{"what", what},
                                           {"host", host_name()},
                                           {"pid", static_cast<std::int64_t>(getpid())},
                                           {"start", utc_now()}})
                                 .dump() +
                             "\n";
  truncate_file(file_, 0, path_);
  write_all(file_, std::as_bytes(std::span(record.data(), record.size())), path_);
}

FolderLock::~FolderLock() {
  // The file stays: removing it could pull it away under a process that is just locking it.
  if (file_ && file_calls::truncate(file_.get(), 0) != 0) {
    // Nothing is lost: the record is only ever read while the lock is held.
  }
}

}  // namespace thresher
