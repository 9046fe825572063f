#include "activation_cache/batch_layout.h"

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "activation_cache/cache_format.h"
#include "core/error.h"
#include "core/random.h"

namespace thresher::activation_cache {

namespace {

void check_plan(const BatchPlan& plan) {
  if (plan.lanes < 1 || !std::has_single_bit(static_cast<std::uint64_t>(plan.lanes))) {
    throw ConfigError(fmt::format("train.lanes: {} lanes", plan.lanes), "a power of two");
  }
  if (plan.batch_tokens < plan.lanes || plan.batch_tokens % plan.lanes != 0) {
    throw ConfigError(fmt::format("train.batch_tokens: {} rows do not divide into {} lanes",
                                  plan.batch_tokens, plan.lanes),
                      "a multiple of train.lanes");
  }
  if (plan.shuffle_window_tokens < 1 ||
      plan.shuffle_window_tokens > std::numeric_limits<std::int32_t>::max()) {
    throw ConfigError(fmt::format("train.shuffle_window_tokens: {}", plan.shuffle_window_tokens),
                      fmt::format("from 1 to {}", std::numeric_limits<std::int32_t>::max()));
  }
}

}  // namespace

BatchLayout::BatchLayout(const std::vector<std::int64_t>& unit_rows, std::int64_t block_rows,
                         const BatchPlan& plan)
    : plan_(plan), block_rows_(block_rows), unit_rows_(unit_rows), unit_first_block_{0} {
  check_plan(plan);
  std::int64_t rows = 0;
  for (const std::int64_t n : unit_rows) {
    unit_first_block_.push_back(unit_first_block_.back() + block_count(n, block_rows));
    rows += n;
  }
  steps_per_epoch_ = rows / plan.batch_tokens;
  if (steps_per_epoch_ == 0) {
    throw ConfigError(
        fmt::format("train.batch_tokens: {} rows are asked for in a batch, the cache has {}",
                    plan.batch_tokens, rows),
        "at least one whole batch", "harvest more text or make batches smaller");
  }
  n_dropped_rows_ = rows - steps_per_epoch_ * plan.batch_tokens;
  const std::int64_t lane_rows = plan.lane_rows();
  const std::int64_t steps_in_window =
      std::clamp<std::int64_t>(plan.shuffle_window_tokens / lane_rows, 1, steps_per_epoch_);
  window_rows_ = steps_in_window * lane_rows;
  windows_per_epoch_ = (steps_per_epoch_ + steps_in_window - 1) / steps_in_window;
}

BatchLayout::Place BatchLayout::place(std::int64_t step) const {
  THRESHER_CHECK(step >= 0, "steps count from 0");
  const std::int64_t row = step % steps_per_epoch_ * plan_.lane_rows();
  return {step / steps_per_epoch_ * windows_per_epoch_ + row / window_rows_, row % window_rows_};
}

std::int64_t BatchLayout::rows_in_window(std::int64_t window) const {
  const std::int64_t first = window % windows_per_epoch_ * window_rows_;
  return std::min(window_rows_, steps_per_epoch_ * plan_.lane_rows() - first);
}

BatchLayout::Block BatchLayout::block(std::int64_t index) const {
  const auto after = std::upper_bound(unit_first_block_.begin(), unit_first_block_.end(), index);
  Block block;
  block.unit = after - unit_first_block_.begin() - 1;
  block.number = index - unit_first_block_[block.unit];
  block.first_row = block.number * block_rows_;
  block.n_rows = std::min(block_rows_, unit_rows_[block.unit] - block.first_row);
  return block;
}

std::shared_ptr<const BatchLayout::Epoch> BatchLayout::epoch(std::int64_t number) const {
  const std::lock_guard lock(mutex_);
  for (const auto& known : recent_) {
    if (known && known->number == number) return known;
  }
  auto made = std::make_shared<Epoch>();
  made->number = number;
  const Permutation order(static_cast<std::uint64_t>(n_blocks()), plan_.seed,
                          fmt::format("cache.blocks.{}", number));
  made->blocks.reserve(static_cast<std::size_t>(n_blocks()));
  made->first_row.reserve(static_cast<std::size_t>(n_blocks()) + 1);
  made->first_row.push_back(0);
  for (std::int64_t i = 0; i < n_blocks(); ++i) {
    const auto index = static_cast<std::int64_t>(order(static_cast<std::uint64_t>(i)));
    made->blocks.push_back(index);
    made->first_row.push_back(made->first_row.back() + block(index).n_rows);
  }
  recent_[0] = std::exchange(recent_[1], made);
  return made;
}

std::vector<BatchLayout::Piece> BatchLayout::pieces(std::int64_t window, std::int64_t lane) const {
  THRESHER_CHECK(lane >= 0 && lane < plan_.lanes, "lane out of range");
  const std::shared_ptr<const Epoch> order = epoch(window / windows_per_epoch_);
  const std::int64_t begin =
      lane * steps_per_epoch_ * plan_.lane_rows() + window % windows_per_epoch_ * window_rows_;
  const std::int64_t end = begin + rows_in_window(window);
  std::vector<Piece> pieces;
  const auto after = std::upper_bound(order->first_row.begin(), order->first_row.end(), begin);
  for (std::int64_t i = after - order->first_row.begin() - 1, row = begin; row < end; ++i) {
    Piece piece;
    piece.block = block(order->blocks[i]);
    piece.skip = row - order->first_row[i];
    piece.n_rows = std::min(end, order->first_row[i + 1]) - row;
    piece.window_row = row - begin;
    row += piece.n_rows;
    pieces.push_back(piece);
  }
  return pieces;
}

std::vector<std::int32_t> BatchLayout::shuffled_rows(std::int64_t window, std::int64_t lane) const {
  const std::int64_t n = rows_in_window(window);
  const Permutation order(static_cast<std::uint64_t>(n), plan_.seed,
                          fmt::format("cache.window.{}.{}.{}", window / windows_per_epoch_, lane,
                                      window % windows_per_epoch_));
  std::vector<std::int32_t> place(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i) {
    place[order(static_cast<std::uint64_t>(i))] = static_cast<std::int32_t>(i);
  }
  return place;
}

}  // namespace thresher::activation_cache
