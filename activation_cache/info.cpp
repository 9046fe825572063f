#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <unordered_map>

#include "activation_cache/cache.h"
#include "activation_cache/commit_log.h"
#include "activation_cache/manifest.h"
#include "activation_cache/window_loader.h"
#include "core/error.h"

namespace thresher::activation_cache {

namespace {

constexpr std::int64_t kSampledBatches = 64;

double pairs(std::int64_t n) { return static_cast<double>(n) * static_cast<double>(n - 1) / 2; }

/// Pairs of rows with an equal label.
double equal_pairs(std::vector<std::int32_t>& labels) {
  std::sort(labels.begin(), labels.end());
  double sum = 0;
  for (auto begin = labels.begin(); begin != labels.end();) {
    const auto end = std::upper_bound(begin, labels.end(), *begin);
    sum += pairs(end - begin);
    begin = end;
  }
  return sum;
}

/// The chance that two rows drawn from the whole cache have an equal label.
double chance_of_equal_labels(ShardReader& shards, std::size_t dataset, std::int64_t n_rows,
                              std::int64_t block_rows) {
  std::unordered_map<std::int32_t, std::int64_t> counts;
  std::vector<std::int32_t> labels;
  for (const UnitRecord& unit : shards.units()) {
    for (std::int64_t b = 0; b < block_count(unit.rows, block_rows); ++b) {
      labels.resize(static_cast<std::size_t>(shards.rows_in_block(unit.unit, dataset, b)));
      shards.read_block(unit.unit, dataset, b, std::as_writable_bytes(std::span(labels)));
      for (const std::int32_t label : labels) ++counts[label];
    }
  }
  double sum = 0;
  for (const auto& [label, count] : counts) sum += pairs(count);
  return sum / pairs(n_rows);
}

/// Collisions of a label in batches of the first epoch, against batches drawn at random from the
/// whole cache. 1 is an ideal shuffle; above 1, rows that belong together stay together.
Json collisions(const std::shared_ptr<ShardReader>& shards,
                const std::shared_ptr<const BatchLayout>& layout, const BatchPlan& plan,
                std::size_t dataset, double chance) {
  const std::int64_t n_batches = std::min(kSampledBatches, layout->steps_per_epoch());
  WindowLoader loader(shards, layout, 0, plan.lanes, 2);
  double found = 0;
  std::vector<std::int32_t> labels(static_cast<std::size_t>(plan.batch_tokens));
  for (std::int64_t i = 0; i < n_batches; ++i) {
    const BatchLayout::Place place = layout->place(i * layout->steps_per_epoch() / n_batches);
    for (std::int64_t lane = 0; lane < plan.lanes; ++lane) {
      const auto rows = loader.window(place.window, lane, dataset);
      const auto n_bytes = static_cast<std::size_t>(plan.lane_rows()) * sizeof(std::int32_t);
      const auto first = static_cast<std::size_t>(place.first_row) * sizeof(std::int32_t);
      std::memcpy(labels.data() + lane * plan.lane_rows(), rows.subspan(first, n_bytes).data(),
                  n_bytes);
    }
    found += equal_pairs(labels);
  }
  const double measured = found / static_cast<double>(n_batches);
  const double ideal = chance * pairs(plan.batch_tokens);
  Json json = Json::object({{"pairs_in_batch", measured}, {"pairs_in_ideal_batch", ideal}});
  json["ratio"] = ideal > 0 ? Json(measured / ideal) : Json();
  return json;
}

Json shuffle_quality(const std::filesystem::path& dir, const CacheIdentity& identity,
                     const Manifest& manifest, const BatchPlan& plan) {
  if (manifest.rows < plan.batch_tokens || plan.batch_tokens < 2) return {};
  std::vector<std::int64_t> unit_rows;
  for (const UnitRecord& unit : manifest.units) unit_rows.push_back(unit.rows);
  const auto shards = std::make_shared<ShardReader>(dir, identity, manifest.units);
  const auto layout = std::make_shared<BatchLayout>(unit_rows, identity.block_rows, plan);
  Json json =
      Json::object({{"batch_tokens", plan.batch_tokens},
                    {"lanes", plan.lanes},
                    {"shuffle_window_tokens", plan.shuffle_window_tokens},
                    {"batches_measured", std::min(kSampledBatches, layout->steps_per_epoch())},
                    {"steps_per_epoch", layout->steps_per_epoch()},
                    {"dropped_rows_per_epoch", layout->n_dropped_rows()}});
  const std::vector<DatasetSpec> specs = shard_datasets(identity);
  for (const auto& [key, name] :
       {std::pair{"same_document", kDocumentDataset}, std::pair{"same_context", kContextDataset}}) {
    const std::size_t dataset = dataset_index(specs, name);
    const double chance =
        chance_of_equal_labels(*shards, dataset, manifest.rows, identity.block_rows);
    json[key] = collisions(shards, layout, plan, dataset, chance);
  }
  return json;
}

/// Norms over the units: exact extremes, and between which values the units' medians lie.
Json norm_summary(const std::vector<UnitRecord>& units, std::size_t hook) {
  constexpr std::size_t kMedian = kNormQuantileLevels.size() / 2;
  Json json = Json::object();
  double low = 0, high = 0, low_median = 0, high_median = 0;
  bool is_first = true;
  for (const UnitRecord& unit : units) {
    if (unit.rows == 0) continue;
    const std::vector<double>& quantiles = unit.norm_quantiles[hook];
    low = is_first ? quantiles.front() : std::min(low, quantiles.front());
    high = is_first ? quantiles.back() : std::max(high, quantiles.back());
    low_median = is_first ? quantiles[kMedian] : std::min(low_median, quantiles[kMedian]);
    high_median = is_first ? quantiles[kMedian] : std::max(high_median, quantiles[kMedian]);
    is_first = false;
  }
  json["min"] = low;
  json["max"] = high;
  json["lowest_unit_median"] = low_median;
  json["highest_unit_median"] = high_median;
  return json;
}

Manifest partial_manifest(const std::filesystem::path& dir, const CacheIdentity& identity) {
  Manifest manifest;
  for (auto& [number, unit] : read_committed_units(dir, identity)) {
    manifest.rows += unit.record.rows;
    manifest.bytes += unit.record.bytes;
    manifest.dropped += unit.record.dropped;
    manifest.units.push_back(std::move(unit.record));
  }
  return manifest;
}

}  // namespace

Json cache_info(const std::filesystem::path& dir, const BatchPlan& plan) {
  const CacheIdentity identity = read_identity(dir);
  const bool is_complete = is_cache_complete(dir);
  const Manifest manifest =
      is_complete ? read_manifest(dir, identity) : partial_manifest(dir, identity);
  Json json = Json::object({{"dir", dir.string()},
                            {"complete", is_complete},
                            {"units", identity.n_units()},
                            {"units_committed", static_cast<std::int64_t>(manifest.units.size())},
                            {"tokens", identity.n_contexts * identity.context_tokens},
                            {"rows", manifest.rows},
                            {"dropped", manifest.dropped.to_json()},
                            {"bytes", manifest.bytes}});
  Json hooks = Json::object();
  for (std::size_t hook = 0; hook < identity.hook_points.size(); ++hook) {
    Json entry = Json::object(
        {{"d_in", identity.hook_points[hook].d_in}, {"norm", norm_summary(manifest.units, hook)}});
    if (is_complete) {
      entry["mean_squared_norm"] = manifest.statistics[hook].mean_squared_norm;
      entry["mean_squared_deviation"] = manifest.statistics[hook].mean_squared_deviation;
    }
    hooks[identity.hook_points[hook].hook_point] = std::move(entry);
  }
  json["hook_points"] = std::move(hooks);
  json["shuffle"] = is_complete ? shuffle_quality(dir, identity, manifest, plan) : Json();
  json["identity"] = identity.to_json();
  return json;
}

}  // namespace thresher::activation_cache
