#include "activation_cache/cache_source.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "activation_cache/cache.h"
#include "core/dtype.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/random.h"

namespace thresher::activation_cache {

namespace {

// Enough to outrun a training step from the page cache; more would take cores from it.
constexpr int kMaxReaders = 2;
// Rows for initialisation come from this many blocks at least: reading a block for every row would
// read the cache.
constexpr std::int64_t kSampledBlocks = 256;

std::string shards_sha256(const std::vector<UnitRecord>& units) {
  Sha256 hash;
  for (const UnitRecord& unit : units) hash.update(std::as_bytes(std::span(unit.sha256)));
  return hash.hex();
}

}  // namespace

std::unique_ptr<ActivationSource> open_cache_source(const std::filesystem::path& dir) {
  return std::make_unique<CacheSource>(dir);
}

CacheSource::CacheSource(const std::filesystem::path& dir) : identity_(read_identity(dir)) {
  Manifest manifest = read_manifest(dir, identity_);
  statistics_ = std::move(manifest.statistics);
  identity_json_ = Json::object({{"kind", "activation_cache"},
                                 {"rows", manifest.rows},
                                 {"shards_sha256", shards_sha256(manifest.units)},
                                 {"cache", identity_.to_json()}});
  shards_ = std::make_shared<ShardReader>(dir, identity_, std::move(manifest.units));
}

Json CacheSource::identity() const { return identity_json_; }

const SourceStatistics& CacheSource::statistics(std::size_t hook_index) const {
  return statistics_.at(hook_index);
}

void CacheSource::start(const BatchPlan& plan, std::int64_t first_step, std::int64_t first_lane,
                        std::int64_t n_lanes) {
  THRESHER_CHECK(
      first_step >= 0 && first_lane >= 0 && n_lanes >= 1 && first_lane + n_lanes <= plan.lanes,
      "a rank owns lanes of the plan");
  loader_.reset();
  std::vector<std::int64_t> unit_rows;
  for (const UnitRecord& unit : shards_->units()) unit_rows.push_back(unit.rows);
  layout_ = std::make_shared<BatchLayout>(unit_rows, identity_.block_rows, plan);
  plan_ = plan;
  // Readers begin with the first read of a hook point: only then is known which ones are wanted.
  loader_ = std::make_unique<WindowLoader>(
      shards_, layout_, first_lane, n_lanes,
      static_cast<int>(std::min<std::int64_t>(kMaxReaders, n_lanes)));
}

const BatchLayout& CacheSource::layout() const {
  THRESHER_CHECK(layout_ != nullptr, "start comes before batches");
  return *layout_;
}

std::int64_t CacheSource::steps_per_epoch() const { return layout().steps_per_epoch(); }

std::int64_t CacheSource::n_dropped_rows_per_epoch() const { return layout().n_dropped_rows(); }

void CacheSource::read(std::int64_t step, std::int64_t lane, std::size_t hook_index,
                       std::span<float> out) {
  const auto d_in = static_cast<std::uint64_t>(identity_.hook_points.at(hook_index).d_in);
  const auto n_rows = static_cast<std::uint64_t>(plan_.lane_rows());
  const BatchLayout::Place place = layout().place(step);
  THRESHER_CHECK(out.size() == n_rows * d_in, "out holds the rows of one lane");
  const auto window = loader_->window(place.window, lane, hook_index);
  const std::uint64_t row_bytes = d_in * dtype_bytes(identity_.dtype);
  decode_values(
      identity_.dtype,
      window.subspan(static_cast<std::uint64_t>(place.first_row) * row_bytes, n_rows * row_bytes),
      out);
}

LoaderStatistics CacheSource::loader_statistics() const {
  return loader_ ? loader_->statistics() : LoaderStatistics{};
}

std::vector<CacheSource::SampledBlock> CacheSource::sampled_blocks(std::uint64_t seed,
                                                                   std::int64_t n_rows) const {
  std::vector<std::pair<std::int64_t, std::int64_t>> all;  // unit, block
  for (const UnitRecord& unit : shards_->units()) {
    const std::int64_t n = block_count(unit.rows, identity_.block_rows);
    for (std::int64_t block = 0; block < n; ++block) all.emplace_back(unit.unit, block);
  }
  std::vector<SampledBlock> blocks;
  if (all.empty()) return blocks;
  std::int64_t n_sampled = 0;
  const Permutation order(all.size(), seed, "cache.sample.blocks");
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (n_sampled >= n_rows && static_cast<std::int64_t>(i) >= kSampledBlocks) break;
    const auto [unit, block] = all[order(i)];
    const std::int64_t n = shards_->rows_in_block(unit, 0, block);
    blocks.push_back({unit, block, n_sampled, n});
    n_sampled += n;
  }
  return blocks;
}

void CacheSource::sample_rows(std::size_t hook_index, std::uint64_t seed, std::int64_t n_rows,
                              std::span<float> out) {
  const auto d_in = static_cast<std::size_t>(identity_.hook_points.at(hook_index).d_in);
  THRESHER_CHECK(out.size() == static_cast<std::size_t>(n_rows) * d_in, "out holds n_rows rows");
  if (n_rows > statistics_[hook_index].n_rows) {
    throw ConfigError(fmt::format("train.init_sample_rows: {} rows are asked for, the cache has {}",
                                  n_rows, statistics_[hook_index].n_rows),
                      "at most the rows of the cache");
  }
  if (n_rows == 0) return;
  const std::vector<SampledBlock> blocks = sampled_blocks(seed, n_rows);
  const std::int64_t n_sampled = blocks.back().first_row + blocks.back().n_rows;
  // (row among the sampled blocks, place in `out`), by row, so that each block is read once.
  std::vector<std::pair<std::int64_t, std::int64_t>> chosen;
  const Permutation order(static_cast<std::uint64_t>(n_sampled), seed, "cache.sample.rows");
  for (std::int64_t i = 0; i < n_rows; ++i) {
    chosen.emplace_back(static_cast<std::int64_t>(order(static_cast<std::uint64_t>(i))), i);
  }
  std::sort(chosen.begin(), chosen.end());
  const std::size_t row_bytes = d_in * dtype_bytes(identity_.dtype);
  std::vector<std::byte> bytes;
  auto next = chosen.begin();
  for (const SampledBlock& block : blocks) {
    const std::int64_t end = block.first_row + block.n_rows;
    if (next == chosen.end() || next->first >= end) continue;
    bytes.resize(static_cast<std::size_t>(block.n_rows) * row_bytes);
    shards_->read_block(block.unit, hook_index, block.number, bytes);
    for (; next != chosen.end() && next->first < end; ++next) {
      const auto row = static_cast<std::size_t>(next->first - block.first_row);
      decode_values(identity_.dtype, std::span(bytes).subspan(row * row_bytes, row_bytes),
                    out.subspan(static_cast<std::size_t>(next->second) * d_in, d_in));
    }
  }
}

}  // namespace thresher::activation_cache
