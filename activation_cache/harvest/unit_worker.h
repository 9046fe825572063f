#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/harvest/pulse.h"
#include "activation_cache/harvest/unit_buffer.h"
#include "activation_cache/harvest/unit_source.h"
#include "activation_cache/shard_file.h"

namespace thresher::activation_cache {

/// Makes units, one after another, on one rank: a source fills a buffer, drop rules, shuffle,
/// publish.
class UnitWorker {
 public:
  using MakeSource = std::function<std::unique_ptr<UnitSource>(const CacheIdentity& identity)>;
  /// `make_source` gets the worker's own identity to keep. `identity` without norm limits when they
  /// are not known yet: the rank that makes unit 0 then finds them, writes cache.json and tells the
  /// others through the pulse.
  UnitWorker(std::filesystem::path dir, CacheIdentity identity, bool are_limits_known,
             const MakeSource& make_source, int rank);

  /// Stops early, between pieces of a unit, when the pulse or a signal says so. `after_pass` is
  /// called after each pass.
  void run(const std::vector<std::int64_t>& units, Pulse& pulse,
           const std::function<void()>& after_pass);
  /// With norm limits, once a unit has been made.
  const CacheIdentity& identity() const { return identity_; }

 private:
  bool fill_buffer(Pulse& pulse, const std::function<void()>& after_pass);
  bool settle_limits(Pulse& pulse);
  std::vector<double> find_limits() const;
  ShardContent select_rows() const;
  DropReason drop_reason(std::int64_t position) const;

  std::filesystem::path dir_;
  CacheIdentity identity_;
  bool are_limits_known_;
  std::unique_ptr<UnitSource> source_;
  int rank_;
  UnitBuffer buffer_;
  CommitLog log_;
};

}  // namespace thresher::activation_cache
