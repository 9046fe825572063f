#include "tests/activation_cache/harvest_testing.h"

#include <ATen/ATen.h>

#include <mutex>

#include "core/error.h"
#include "core/random.h"

namespace thresher::activation_cache::testing {

FakeHost::FakeHost(Dtype dtype) {
  info_.family = "fake";
  info_.fingerprint = "fake host";
  info_.n_blocks = 2;
  info_.d_model = 12;
  info_.n_vocabulary = 1000;
  info_.max_context_tokens = 64;
  info_.dtype = dtype;
  info_.parameter_bytes =
      static_cast<std::int64_t>(dtype_bytes(dtype)) * (12 * 1000 + 2 * 12 * 12 * 12);
}

float FakeHost::value(const host_model::HookPoint& hook, std::int32_t token, std::int64_t position,
                      std::int64_t d) {
  const auto site = static_cast<std::uint32_t>(hook.site);
  const auto bits =
      philox4x32({static_cast<std::uint32_t>(token), static_cast<std::uint32_t>(position),
                  static_cast<std::uint32_t>(d), site},
                 {static_cast<std::uint32_t>(hook.block + 1), 0})[0];
  const float base = 0.5F + static_cast<float>(bits >> 8) * 0x1p-24F;
  return base * (position == 0 ? 60.0F : token == 13 ? 20.0F : 1.0F);
}

at::Tensor FakeHost::forward(const host_model::TokenBatch& batch,
                             const host_model::ForwardRequest& request) {
  if (before_pass) before_pass(n_passes_);
  ++n_passes_;
  const std::int64_t n = batch.token_ids.numel();
  const auto* ids = batch.token_ids.const_data_ptr<std::int64_t>();
  const auto* positions = batch.positions.const_data_ptr<std::int64_t>();
  for (const auto& [hook, function] : request.hooks) {
    at::Tensor activation = at::empty({n, info_.d_model}, at::kFloat);
    auto* out = activation.mutable_data_ptr<float>();
    for (std::int64_t i = 0; i < n; ++i) {
      for (std::int64_t d = 0; d < info_.d_model; ++d) {
        const auto token = static_cast<std::int32_t>(ids[i]);
        const auto plant = planted.find({token, d});
        out[i * info_.d_model + d] =
            plant != planted.end() ? plant->second : value(hook, token, positions[i], d);
      }
    }
    function(activation);
  }
  return {};
}

at::Tensor FakeHost::unembed(const at::Tensor&) { THRESHER_CHECK(false, "not asked for"); }
at::Tensor FakeHost::unembedding() const { THRESHER_CHECK(false, "not asked for"); }

corpus::PackedContexts fake_contexts(std::int64_t n) {
  corpus::PackedContexts contexts;
  contexts.context_tokens = 64;
  contexts.n_contexts = n;
  const RandomStream random(4, "test.tokens");
  for (std::int64_t i = 0; i < contexts.n_contexts * contexts.context_tokens; ++i) {
    contexts.token_ids.push_back(
        static_cast<std::int32_t>(random.below(static_cast<std::uint64_t>(i), 500)));
    contexts.documents.push_back(static_cast<std::int32_t>(i / 37));
    const bool restarts = i % 64 == 0 || i % 37 == 0;
    contexts.positions.push_back(restarts ? 0 : contexts.positions.back() + 1);
  }
  return contexts;
}

CacheConfig fake_config(const std::filesystem::path& dir) {
  CacheConfig config;
  config.dir = dir.string();
  config.hook_points = {"blocks.0.hook_resid_post", "blocks.1.hook_mlp_out"};
  config.unit_tokens = 8192;
  return config;
}

HarvestSetup small_setup(const std::filesystem::path& dir, int ranks) {
  HarvestSetup setup{fake_config(dir), ranks};
  setup.config.unit_tokens = 1024;
  setup.n_contexts = 40;
  return setup;
}

HarvestResult run_harvest(const HarvestSetup& setup) {
  const corpus::PackedContexts contexts = fake_contexts(setup.n_contexts);
  const Json corpus_identity = Json::object({{"fingerprint", "fake corpus"}});
  std::mutex mutex;
  HarvestResult result;
  const auto work = [&](comm::Communicator& comm) {
    FakeHost host;
    if (setup.prepare_host) setup.prepare_host(host, comm.rank());
    const HarvestResult own =
        harvest(setup.config, contexts, corpus_identity, FakeTokenizer(), host, comm, setup.seed);
    const std::lock_guard lock(mutex);
    if (comm.is_root()) result = own;
  };
  if (setup.ranks == 1) {
    work(*comm::make_self_communicator());
  } else {
    comm::run_thread_ranks(setup.ranks, setup.timeout_seconds, work);
  }
  return result;
}

}  // namespace thresher::activation_cache::testing
