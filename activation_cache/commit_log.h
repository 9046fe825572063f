#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/unit_record.h"
#include "core/files.h"

namespace thresher::activation_cache {

/// A commit record and where it stands. Its moments were left out (they can be large);
/// read_logged_unit has them.
struct LoggedUnit {
  UnitRecord record;
  std::filesystem::path log;
  std::uint64_t offset = 0;  // of the frame
};
using CommittedUnits = std::map<std::int64_t, LoggedUnit>;  // by unit

/// The sound frames at the start of one log. What follows them (a write that a crash tore) is no
/// part of it.
struct LogContent {
  std::vector<LoggedUnit> units;
  std::uint64_t sound_bytes = 0;
  std::uint64_t file_bytes = 0;
};

/// A frame is u32 length | u32 CRC-32C of the text | JSON text, little-endian. DataError when a
/// frame is sound but its record does not fit the identity.
LogContent read_commit_log(const std::filesystem::path& log, const CacheIdentity& identity);
UnitRecord read_logged_unit(const LoggedUnit& unit, const CacheIdentity& identity);

/// The logs of a cache, in the order of their names.
std::vector<std::filesystem::path> list_commit_logs(const std::filesystem::path& dir);
/// Every unit that a log says is committed. Of two records of a unit, one that fits the file's size
/// wins.
CommittedUnits read_committed_units(const std::filesystem::path& dir,
                                    const CacheIdentity& identity);

/// The log of one writer, open for appending.
class CommitLog {
 public:
  CommitLog(const std::filesystem::path& dir, int rank);
  /// Appends one frame with time, host and rank, and syncs it: the unit is committed when this
  /// returns.
  LoggedUnit append(const UnitRecord& record, const CacheIdentity& identity);

 private:
  std::filesystem::path path_;
  FileDescriptor file_;
  int rank_;
  std::uint64_t end_ = 0;
};

/// This machine's name, as in commit records and temporary files (only [A-Za-z0-9._-]).
std::string host_name();

}  // namespace thresher::activation_cache
