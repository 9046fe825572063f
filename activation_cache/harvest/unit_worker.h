#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <vector>

#include "activation_cache/cache_format.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/harvest/pulse.h"
#include "activation_cache/harvest/unit_buffer.h"
#include "activation_cache/shard_file.h"
#include "corpus/corpus.h"
#include "host_model/host_model.h"

namespace thresher::activation_cache {

/// Makes units, one after another, on one rank: forward passes into a buffer, drop rules, shuffle,
/// publish.
class UnitWorker {
 public:
  /// `identity` without norm limits when they are not known yet: the rank that makes unit 0 then
  /// finds them, writes cache.json and tells the others through the pulse.
  UnitWorker(std::filesystem::path dir, CacheIdentity identity, bool are_limits_known,
             const corpus::PackedContexts& contexts, const corpus::Tokenizer& tokenizer,
             host_model::HostModel& model, int rank);

  /// Stops early, between forward passes, when the pulse or a signal says so. `after_pass` is
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
  host_model::TokenBatch token_batch(std::int64_t first_context, std::int64_t n_contexts) const;

  std::filesystem::path dir_;
  CacheIdentity identity_;
  bool are_limits_known_;
  const corpus::PackedContexts& contexts_;
  const corpus::Tokenizer& tokenizer_;
  host_model::HostModel& model_;
  int rank_;
  std::vector<host_model::HookPoint> hooks_;
  UnitBuffer buffer_;
  CommitLog log_;
};

}  // namespace thresher::activation_cache
