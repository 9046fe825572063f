#include <fmt/format.h>

#include <algorithm>
#include <system_error>

#include "activation_cache/publish.h"
#include "core/error.h"
#include "core/files.h"
#include "core/inside_folder.h"
#include "core/log.h"

namespace thresher::activation_cache {

namespace {

void cut_torn_tails(const std::filesystem::path& dir, const CacheIdentity& identity) {
  for (const std::filesystem::path& log : list_commit_logs(dir)) {
    const LogContent content = read_commit_log(log, identity);
    if (content.sound_bytes == content.file_bytes) continue;
    log_warning(fmt::format("{}: cutting {} bytes of an unfinished record", log.string(),
                            content.file_bytes - content.sound_bytes));
    const FileDescriptor file = open_for_overwriting(log);
    truncate_file(file, content.sound_bytes, log);
    sync_file(file, log);
  }
}

void drop_lost_units(const std::filesystem::path& dir, CommittedUnits& committed) {
  for (auto unit = committed.begin(); unit != committed.end();) {
    const std::filesystem::path shard = shard_path(dir, unit->first);
    std::error_code missing;
    const std::uintmax_t bytes = std::filesystem::file_size(shard, missing);
    if (!missing && bytes == unit->second.record.bytes) {
      ++unit;
      continue;
    }
    const std::string found =
        missing ? std::string("is missing") : fmt::format("has {} bytes", bytes);
    log_warning(fmt::format("{}: the shard {}, {} are recorded; it is harvested again",
                            shard.string(), found, unit->second.record.bytes));
    if (!missing) remove_tree(shard);
    unit = committed.erase(unit);
  }
}

/// A crash between the rename and the commit record leaves a whole shard that no record names.
void adopt_unrecorded_shards(const std::filesystem::path& dir, const CacheIdentity& identity,
                             CommittedUnits& committed) {
  for (const std::filesystem::path& entry : list_folder(dir / kShardFolder)) {
    const std::filesystem::path shard = dir / kShardFolder / entry.filename();
    const std::int64_t unit = unit_of_shard_file(entry.filename().string());
    if (unit < 0 || unit >= identity.n_units()) {
      log_warning(fmt::format("{}: not a shard of this cache; left as it is", shard.string()));
      continue;
    }
    if (committed.contains(unit)) continue;
    try {
      require_inside_folder(shard);
      examine_shard(shard, identity, unit);
      const UnitRecord record = describe_shard(shard, identity, unit);
      sync_file(shard);
      sync_folder(dir / kShardFolder);
      CommitLog log(dir, 0);
      committed.emplace(unit, log.append(record, identity));
      failpoint(failpoints::kShardAdopted);
    } catch (const DataError& error) {
      log_warning(fmt::format("{}; it is harvested again", error.first_line()));
      remove_tree(shard);
    }
  }
}

}  // namespace

RecoveredCache recover_cache(const std::filesystem::path& dir, const CacheIdentity& identity) {
  for (const char* folder : {kShardFolder, kCommitFolder, kTemporaryFolder}) {
    make_folders(dir / folder);
  }
  sync_folder(dir);
  for (const std::filesystem::path& entry : list_folder(dir / kTemporaryFolder)) {
    remove_tree(dir / kTemporaryFolder / entry.filename());
  }
  failpoint(failpoints::kTemporaryDeleted);
  cut_torn_tails(dir, identity);
  RecoveredCache recovered;
  recovered.committed = read_committed_units(dir, identity);
  drop_lost_units(dir, recovered.committed);
  adopt_unrecorded_shards(dir, identity, recovered.committed);
  for (std::int64_t unit = 0; unit < identity.n_units(); ++unit) {
    if (!recovered.committed.contains(unit)) recovered.todo.push_back(unit);
  }
  return recovered;
}

}  // namespace thresher::activation_cache
