#include "activation_cache/publish.h"

#include <fmt/format.h>
#include <unistd.h>

#include "core/error.h"
#include "core/files.h"
#include "core/hash.h"

namespace thresher::activation_cache {

namespace {

/// Removes the file when it goes out of scope: a failed write must not keep the disk full.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::filesystem::path path) : path_(std::move(path)) {}
  ~TemporaryFile() { remove_if_possible(path_); }  // renamed away, or deleted at the next start
  TemporaryFile(const TemporaryFile&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

}  // namespace

LoggedUnit publish_unit(const std::filesystem::path& dir, const CacheIdentity& identity,
                        const ShardContent& content, int rank, CommitLog& log) {
  const TemporaryFile temporary(
      dir / kTemporaryFolder /
      fmt::format("{:08}.{}.{}.{}.h5", content.unit, host_name(), ::getpid(), rank));
  write_shard(temporary.path(), identity, content);
  // Reading back catches a bad page while the data can still be made again.
  const UnitRecord record = describe_shard(temporary.path(), identity, content.unit);
  failpoint(failpoints::kShardHashed);
  sync_file(temporary.path());
  failpoint(failpoints::kShardSynced);
  const std::filesystem::path shard = shard_path(dir, content.unit);
  if (!rename_no_replace(temporary.path(), shard) && sha256_file(shard) != record.sha256) {
    throw IoError(fmt::format("{}: the shard exists with other content", shard.string()),
                  "one harvest at a time in a cache folder",
                  "stop the other one and run again: the shard is then checked");
  }
  failpoint(failpoints::kShardRenamed);
  sync_folder(dir / kShardFolder);
  failpoint(failpoints::kShardFolderSynced);
  return log.append(record, identity);
}

}  // namespace thresher::activation_cache
