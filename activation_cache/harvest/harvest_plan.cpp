#include "activation_cache/harvest/harvest_plan.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <set>

#include "activation_cache/commit_log.h"
#include "activation_cache/harvest/harvest.h"
#include "activation_cache/harvest/unit_buffer.h"
#include "core/error.h"

namespace thresher::activation_cache {

namespace {

// Superblock, groups, dataset headers, alignment: about 10 KiB, and more with every hook point.
constexpr std::uint64_t kMetadataBytes = 64 << 10;
constexpr std::uint64_t kMetadataBytesPerHook = 16 << 10;

void check_lengths(const CacheConfig& config, const corpus::PackedContexts& contexts) {
  if (config.dir.empty()) throw ConfigError("cache.dir: no folder is given", "a path");
  if (config.hook_points.empty()) {
    throw ConfigError("cache.hook_points: no hook point is given", "at least one",
                      "for example [blocks.14.hook_resid_post]");
  }
  if (contexts.n_contexts == 0) {
    throw ConfigError(fmt::format("corpus: the training text fills no context of {} tokens",
                                  contexts.context_tokens),
                      "at least one context", "give more text, or lower corpus.context_tokens");
  }
  if (config.unit_tokens < contexts.context_tokens) {
    throw ConfigError(fmt::format("cache.unit_tokens: {} is less than one context of {} tokens",
                                  config.unit_tokens, contexts.context_tokens),
                      "at least corpus.context_tokens");
  }
}

/// Seconds of work for one multiply-add on this machine, by a product of the shape that a forward
/// pass spends its time in.
double seconds_per_multiply_add(Dtype dtype) {
  constexpr std::int64_t kSize = 512;
  const at::ScalarType type = dtype == Dtype::kBfloat16 ? at::kBFloat16 : at::kFloat;
  const at::Tensor a = at::ones({kSize, kSize}, type);
  const at::Tensor b = at::ones({kSize, kSize}, type).t();
  at::Tensor out = at::mm(a, b);
  double best = 1e9;
  for (int i = 0; i < 3; ++i) {
    const auto begin = std::chrono::steady_clock::now();
    at::mm_out(out, a, b);
    best = std::min(
        best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  return best / static_cast<double>(kSize * kSize * kSize);
}

/// Multiply-adds of one token up to the last hook point: the weights of the blocks it goes through.
double multiply_adds_per_token(const host_model::HostModelInfo& info,
                               const std::vector<host_model::HookPoint>& hooks) {
  std::int64_t n_blocks = 0;
  for (const host_model::HookPoint& hook : hooks) {
    const bool is_last = hook.site == host_model::HookPoint::Site::kFinalNormalized;
    n_blocks = std::max(n_blocks, is_last ? info.n_blocks : hook.block + 1);
  }
  const double parameters =
      static_cast<double>(info.parameter_bytes) / static_cast<double>(dtype_bytes(info.dtype));
  const double embedding =
      static_cast<double>(info.n_vocabulary) * static_cast<double>(info.d_model);
  return std::max(0.0, parameters - embedding) * static_cast<double>(n_blocks) /
         static_cast<double>(std::max<std::int64_t>(1, info.n_blocks));
}

}  // namespace

std::vector<host_model::HookPoint> parse_hook_points(const CacheIdentity& identity) {
  std::vector<host_model::HookPoint> hooks;
  for (const HookPointWidth& hook : identity.hook_points) {
    hooks.push_back(host_model::HookPoint::parse(hook.hook_point));
  }
  return hooks;
}

CacheIdentity plan_cache(const CacheConfig& config, const corpus::PackedContexts& contexts,
                         const host_model::HostModel& model) {
  check_lengths(config, contexts);
  CacheIdentity identity;
  identity.host_family = model.info().family;
  identity.host_fingerprint = model.info().fingerprint;
  identity.host_dtype = model.info().dtype;
  identity.host_device = model.info().device;
  std::set<std::string> names;
  for (const std::string& name : config.hook_points) {
    const host_model::HookPoint hook = host_model::HookPoint::parse(name);
    if (hook.block >= model.info().n_blocks) {
      throw ConfigError(fmt::format("cache.hook_points: {} is not in this model", name),
                        fmt::format("blocks 0 to {}", model.info().n_blocks - 1));
    }
    if (!names.insert(hook.name()).second) {
      throw ConfigError(fmt::format("cache.hook_points: {} stands there twice", hook.name()),
                        "every hook point once");
    }
    identity.hook_points.push_back({hook.name(), model.info().width(hook)});
  }
  identity.dtype = parse_dtype(config.dtype);
  identity.context_tokens = contexts.context_tokens;
  identity.n_contexts = contexts.n_contexts;
  identity.unit_tokens = config.unit_tokens;
  identity.drop_first_positions = config.drop_first_positions;
  identity.drop_special_tokens = config.drop_special_tokens;
  identity.drop_norm_above = config.drop_norm_above;
  identity.forward_contexts = std::clamp<std::int64_t>(kForwardTokens / contexts.context_tokens, 1,
                                                       identity.unit_contexts());
  identity.block_rows = default_block_rows(identity.hook_points, identity.dtype);
  return identity;
}

std::uint64_t shard_bytes_at_most(const CacheIdentity& identity, std::int64_t unit) {
  const UnitRange range = identity.unit_range(unit);
  const std::int64_t positions = range.n_contexts * identity.context_tokens;
  std::uint64_t bytes = kMetadataBytes + kMetadataBytesPerHook * identity.hook_points.size();
  for (const DatasetSpec& spec : shard_datasets(identity)) {
    const std::int64_t rows = spec.is_per_context ? range.n_contexts : positions;
    bytes += static_cast<std::uint64_t>(rows * spec.row_bytes() +
                                        4 * block_count(rows, identity.block_rows));
  }
  return bytes;
}

CacheIdentity plan_own_cache(const CacheConfig& config, const OwnActivations& rows,
                             const Json& rows_identity) {
  if (config.dir.empty()) throw ConfigError("cache.dir: no folder is given", "a path");
  THRESHER_CHECK(config.drop_first_positions == 0 && !config.drop_special_tokens,
                 "own rows have no positions and no tokenizer");
  CacheIdentity identity;
  identity.host_family = "none";
  identity.corpus = rows_identity;
  identity.hook_points = rows.hook_points();
  identity.dtype = parse_dtype(config.dtype);
  identity.context_tokens = 1;
  identity.n_contexts = rows.n_rows();
  identity.unit_tokens = config.unit_tokens;
  identity.drop_norm_above = config.drop_norm_above;
  identity.forward_contexts = std::clamp<std::int64_t>(kForwardTokens, 1, identity.unit_contexts());
  identity.block_rows = default_block_rows(identity.hook_points, identity.dtype);
  return identity;
}

namespace {

/// What is left to do of a cache, and its room on disk.
HarvestEstimate estimate_units(const std::filesystem::path& dir, const CacheIdentity& identity) {
  CommittedUnits committed;
  try {
    if (std::filesystem::exists(dir / kIdentityFile)) {
      committed = read_committed_units(dir, read_identity(dir));
    }
  } catch (const Error&) {
    committed.clear();  // the harvest itself says what is wrong with the folder, on all ranks
  }
  HarvestEstimate estimate;
  estimate.units = identity.n_units();
  for (std::int64_t unit = 0; unit < identity.n_units(); ++unit) {
    if (committed.contains(unit)) continue;
    ++estimate.units_left;
    estimate.tokens += identity.unit_range(unit).n_contexts * identity.context_tokens;
    estimate.disk_bytes += shard_bytes_at_most(identity, unit);
  }
  return estimate;
}

}  // namespace

HarvestEstimate estimate_own_harvest(const CacheConfig& config, const OwnActivations& rows,
                                     const Json& rows_identity, int world_size) {
  // Encoding, two checksums, reading back and syncing; half of what one core did on an idle disk.
  constexpr double kBytesPerSecond = 150e6;
  const CacheIdentity identity = plan_own_cache(config, rows, rows_identity);
  HarvestEstimate estimate = estimate_units(config.dir, identity);
  estimate.memory_bytes_per_rank = UnitBuffer::memory_bytes(identity);
  estimate.seconds = static_cast<double>(rows.activation_bytes()) *
                     static_cast<double>(estimate.tokens) / static_cast<double>(rows.n_rows()) /
                     kBytesPerSecond / std::max(1, world_size);
  return estimate;
}

HarvestEstimate estimate_harvest(const CacheConfig& config, const corpus::PackedContexts& contexts,
                                 const host_model::HostModel& model, int world_size) {
  const CacheIdentity identity = plan_cache(config, contexts, model);
  HarvestEstimate estimate = estimate_units(config.dir, identity);
  // Buffers of a forward pass: the residual stream, attention and an MLP some times as wide, in
  // the model's type.
  constexpr std::int64_t kForwardValuesPerWidth = 24;
  const std::int64_t forward_values = identity.forward_contexts * identity.context_tokens *
                                      model.info().d_model * kForwardValuesPerWidth;
  const Dtype dtype = model.info().dtype;
  estimate.memory_bytes_per_rank = static_cast<std::uint64_t>(model.info().parameter_bytes) +
                                   UnitBuffer::memory_bytes(identity) +
                                   static_cast<std::uint64_t>(forward_values) * dtype_bytes(dtype);
  // Attention, norms and activations take about as long again as half the products.
  constexpr double kBesideProducts = 1.5;
  const double multiply_adds = static_cast<double>(estimate.tokens) *
                               multiply_adds_per_token(model.info(), parse_hook_points(identity)) *
                               kBesideProducts / std::max(1, world_size);
  estimate.seconds = multiply_adds * seconds_per_multiply_add(dtype);
  estimate.seconds_in_float32 = dtype == Dtype::kFloat32
                                    ? estimate.seconds
                                    : multiply_adds * seconds_per_multiply_add(Dtype::kFloat32);
  return estimate;
}

}  // namespace thresher::activation_cache
