#include "activation_cache/harvest/file_identity.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <string>
#include <vector>

#include "activation_cache/cache.h"
#include "activation_cache/harvest/pulse.h"
#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"
#include "core/log.h"
#include "core/progress.h"
#include "core/system_error.h"
#include "core/visible_text.h"

namespace thresher::activation_cache {

namespace {

constexpr std::uint64_t kMaxSourcesBytes = 256ULL << 20;
constexpr std::int64_t kNanoseconds = 1'000'000'000;
// A file that changes twice within the clock of its file system looks as if it changed once.
constexpr std::int64_t kSettleNanoseconds = 2 * kNanoseconds;
constexpr std::uint64_t kWorthSaying = 1ULL << 30;

std::int64_t nanoseconds(const timespec& time) {
  return static_cast<std::int64_t>(time.tv_sec) * kNanoseconds + time.tv_nsec;
}

/// How a file looks from outside, and when that was. Nothing of it can be put back by a program
/// that has changed the file.
Json outside_of(const std::filesystem::path& path) {
  struct stat status {};
  if (::stat(path.c_str(), &status) != 0) throw_system_error(path, "stat", errno);
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return Json::object({{"bytes", static_cast<std::int64_t>(status.st_size)},
                       {"device", static_cast<std::uint64_t>(status.st_dev)},
                       {"inode", static_cast<std::uint64_t>(status.st_ino)},
                       {"changed_ns", nanoseconds(status.st_ctim)},
                       {"seen_ns", nanoseconds(now)}});
}

bool is_same_file(const Json& remembered, const Json& now) {
  for (const char* key : {"bytes", "device", "inode", "changed_ns"}) {
    if (!(remembered.at(key) == now.at(key))) return false;
  }
  return remembered.at("seen_ns").as_int() - remembered.at("changed_ns").as_int() >
         kSettleNanoseconds;
}

/// Empty where nothing, or nothing that can be understood, is remembered.
Json read_sources(const std::filesystem::path& cache_dir) {
  const std::filesystem::path path = cache_dir / kSourcesFile;
  try {
    if (std::filesystem::exists(path)) {
      const Json json = Json::parse(read_text_file(path, kMaxSourcesBytes), path.string());
      json.at("files").as_object();
      return json.at("files");
    }
  } catch (const Error& error) {
    log_warning(fmt::format("{}; files are read again", error.first_line()));
  }
  return Json::object();
}

std::string key_of(const std::filesystem::path& path) {
  return std::filesystem::absolute(path).lexically_normal().string();
}

/// Size, SHA-256 and what is remembered of one file.
Json identify(const std::filesystem::path& path, const Json& sources) {
  Json now = outside_of(path);
  const Json* known = sources.find(key_of(path));
  try {
    if (known != nullptr && is_same_file(*known, now)) return *known;
  } catch (const DataError&) {  // written by something else
  }
  if (now.at("bytes").as_uint() >= kWorthSaying) {
    log_info(fmt::format("{}: reading {} once for its SHA-256", display_path(path),
                         format_bytes(now.at("bytes").as_uint())));
  }
  now["sha256"] = sha256_file(path);
  return now;
}

std::vector<std::byte> to_bytes(const std::string& text) {
  std::vector<std::byte> bytes(text.size());
  std::memcpy(bytes.data(), text.data(), text.size());
  return bytes;
}

}  // namespace

OwnFiles identify_own_files(const OwnActivations& rows, const std::filesystem::path& cache_dir,
                            comm::Communicator& comm) {
  const std::vector<std::filesystem::path> files = rows.files();
  Json mine = Json::object();
  run_with_pulse(comm, "read the files of activations", [&](Pulse&) {
    const Json sources = read_sources(cache_dir);
    const auto world_size = static_cast<std::size_t>(comm.world_size());
    for (auto i = static_cast<std::size_t>(comm.rank()); i < files.size(); i += world_size) {
      mine[std::to_string(i)] = identify(files[i], sources);
    }
  });
  std::vector<Json> found(files.size());
  for (const std::vector<std::byte>& part :
       comm.all_gather(to_bytes(mine.dump()), "activations.files")) {
    const std::string_view text(reinterpret_cast<const char*>(part.data()), part.size());
    const Json json = Json::parse(text, "activations.files");
    for (const auto& [index, file] : json.as_object()) {
      found.at(static_cast<std::size_t>(std::stoull(index))) = file;
    }
  }
  OwnFiles out{rows.identity(), Json::object()};
  Json list = Json::array();
  for (std::size_t i = 0; i < files.size(); ++i) {
    list.push_back(
        Json::object({{"bytes", found[i].at("bytes")}, {"sha256", found[i].at("sha256")}}));
    out.sources[key_of(files[i])] = found[i];
  }
  out.identity["files"] = std::move(list);
  return out;
}

void remember_own_files(const OwnFiles& files, const std::filesystem::path& cache_dir) {
  write_file_atomically(cache_dir / kSourcesFile,
                        Json::object({{"files", files.sources}}).dump(1) + "\n");
}

void check_own_files(const OwnFiles& files, const std::filesystem::path& cache_dir) {
  const std::string difference =
      first_difference(read_cache_identity(cache_dir).at("corpus"), files.identity);
  if (difference.empty()) return;
  throw ConfigError(fmt::format("{}: the cache was made from other activations: {}",
                                cache_dir.string(), difference),
                    "the files that were harvested (left: in the cache, right: now)",
                    "put them back, or harvest the new ones into another cache.dir");
}

}  // namespace thresher::activation_cache
