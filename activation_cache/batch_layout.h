#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "activation_cache/activation_source.h"

namespace thresher::activation_cache {

/// Which rows of a cache make which batch: a pure function of the rows per unit and the plan.
///
/// An epoch permutes all blocks by a keyed permutation and lays their rows end to end. The last
/// rows, which fill no batch, are dropped; the rest is cut into equal ranges, one a lane. A lane
/// shuffles rows inside windows of its range and gives lane_rows of them to every batch. Safe to
/// use from several threads.
class BatchLayout {
 public:
  /// ConfigError when the rows do not fill one batch or the plan contradicts itself.
  BatchLayout(const std::vector<std::int64_t>& unit_rows, std::int64_t block_rows,
              const BatchPlan& plan);

  struct Block {
    std::int64_t unit = 0;
    std::int64_t number = 0;     // inside the unit
    std::int64_t first_row = 0;  // inside the unit
    std::int64_t n_rows = 0;
  };
  /// Rows [skip, skip + n_rows) of a block, which stand at `window_row` of a window before it is
  /// shuffled.
  struct Piece {
    Block block;
    std::int64_t skip = 0;
    std::int64_t n_rows = 0;
    std::int64_t window_row = 0;
  };
  /// Where the rows of a step stand: windows are numbered on through the epochs and are the same
  /// for all lanes.
  struct Place {
    std::int64_t window = 0;
    std::int64_t first_row = 0;  // inside the shuffled window
  };

  std::int64_t steps_per_epoch() const { return steps_per_epoch_; }
  std::int64_t n_dropped_rows() const { return n_dropped_rows_; }
  std::int64_t n_blocks() const { return unit_first_block_.back(); }
  /// Rows of the largest window.
  std::int64_t window_rows() const { return window_rows_; }
  Place place(std::int64_t step) const;
  std::int64_t rows_in_window(std::int64_t window) const;
  std::vector<Piece> pieces(std::int64_t window, std::int64_t lane) const;
  /// For every row of the window as it was laid out, its row after shuffling.
  std::vector<std::int32_t> shuffled_rows(std::int64_t window, std::int64_t lane) const;
  /// Block `index` in unit order.
  Block block(std::int64_t index) const;

 private:
  struct Epoch {
    std::int64_t number = -1;
    std::vector<std::int64_t> blocks;     // in the order of this epoch
    std::vector<std::int64_t> first_row;  // of each, laid end to end; one more for the end
  };
  std::shared_ptr<const Epoch> epoch(std::int64_t number) const;

  BatchPlan plan_;
  std::int64_t block_rows_;
  std::vector<std::int64_t> unit_rows_;
  std::vector<std::int64_t> unit_first_block_;  // one more for the end
  std::int64_t steps_per_epoch_ = 0;
  std::int64_t n_dropped_rows_ = 0;
  std::int64_t window_rows_ = 0;
  std::int64_t windows_per_epoch_ = 0;
  mutable std::mutex mutex_;
  mutable std::shared_ptr<const Epoch> recent_[2];  // readers run ahead into the next epoch
};

}  // namespace thresher::activation_cache
