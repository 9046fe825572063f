#pragma once

#include <filesystem>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/shard_file.h"

namespace thresher::activation_cache {

/// Brings one unit into the cache so that a crash at any point leaves it committed whole or not at
/// all: write a temporary file, read it back and hash it, sync it, rename it without replacing,
/// sync the folder, append the commit record, sync the log. IoError on failure, with the temporary
/// file removed.
LoggedUnit publish_unit(const std::filesystem::path& dir, const CacheIdentity& identity,
                        const ShardContent& content, int rank, CommitLog& log);

/// What a harvest finds when it starts.
struct RecoveredCache {
  CommittedUnits committed;
  std::vector<std::int64_t> todo;  // in unit order
};

/// Puts a cache folder in order; the caller holds its lock. Deletes temporary files, cuts torn
/// frames off the logs, verifies shards that no record names and adopts or deletes them; a recorded
/// shard that is missing or has another size goes back to `todo` with a warning. Creates the
/// folders if they are not there.
RecoveredCache recover_cache(const std::filesystem::path& dir, const CacheIdentity& identity);

}  // namespace thresher::activation_cache
