#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include "activation_cache/harvest/harvest.h"
#include "comm/communicator.h"
#include "tests/activation_cache/cache_testing.h"

namespace thresher::activation_cache::testing {

/// Token 2 is special.
class FakeTokenizer : public corpus::Tokenizer {
 public:
  std::vector<std::int32_t> encode(std::string_view, bool) const override { return {}; }
  std::string decode(std::span<const std::int32_t>) const override { return {}; }
  std::int64_t vocabulary_size() const override { return 1000; }
  std::optional<std::int32_t> bos_id() const override { return std::nullopt; }
  std::optional<std::int32_t> eos_id() const override { return 2; }
  bool is_special(std::int32_t id) const override { return id == 2; }
  std::string fingerprint() const override { return "fake tokenizer"; }
};

/// A host whose activations are a function of token, position and hook point, with sinks at first
/// positions (norm 60 times the usual) and at token 13 (20 times).
class FakeHost : public host_model::HostModel {
 public:
  explicit FakeHost(Dtype dtype = Dtype::kFloat32);
  void pretend_device(Device device) { info_.device = device; }
  const host_model::HostModelInfo& info() const override { return info_; }
  at::Tensor forward(const host_model::TokenBatch& batch,
                     const host_model::ForwardRequest& request) override;
  at::Tensor unembed(const at::Tensor&) override;
  at::Tensor unembedding() const override;

  static float value(const host_model::HookPoint& hook, std::int32_t token, std::int64_t position,
                     std::int64_t d);
  /// Called before each pass with its number (from 0).
  std::function<void(int)> before_pass;
  /// Replaces the value at (token, d) of every hook point.
  std::map<std::pair<std::int32_t, std::int64_t>, float> planted;

 private:
  host_model::HostModelInfo info_;
  int n_passes_ = 0;
};

/// 700 contexts of 64 tokens: six units of 128 contexts in two passes each, the last shorter.
/// Documents are 37 tokens long.
corpus::PackedContexts fake_contexts(std::int64_t n = 700);
CacheConfig fake_config(const std::filesystem::path& dir);

struct HarvestSetup {
  CacheConfig config;
  int ranks = 1;
  double timeout_seconds = 60;
  std::uint64_t seed = 9;
  std::int64_t n_contexts = 700;
  std::function<void(FakeHost&, int rank)> prepare_host = {};
};
/// 40 contexts in three units, the last shorter: a harvest of some milliseconds, for tests that
/// need very many.
HarvestSetup small_setup(const std::filesystem::path& dir, int ranks = 1);
/// Harvests on thread ranks; returns rank 0's result.
HarvestResult run_harvest(const HarvestSetup& setup);

}  // namespace thresher::activation_cache::testing
