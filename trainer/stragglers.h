#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "comm/communicator.h"

namespace thresher::trainer {

/// Measures how long each rank computes, waiting for others not counted: ranks in step all take as
/// long as the slowest, so only this tells which one that is.
class Stragglers {
 public:
  static constexpr std::int64_t kWindowSteps = 100;
  static constexpr double kSlow = 1.5;  // times the median
  static constexpr int kWindows = 3;    // in a row before it is worth a warning

  explicit Stragglers(comm::Communicator& comm);
  /// After every step. Every kWindowSteps steps each rank's seconds in that window, on all ranks;
  /// else nothing. Rank 0 warns of a rank that was slow in kWindows windows. Collective.
  std::optional<std::vector<double>> after_step();

 private:
  comm::Communicator* comm_;
  std::chrono::steady_clock::time_point begin_;
  double in_calls_;
  std::int64_t steps_ = 0;
  std::vector<int> slow_windows_;  // a rank: in a row
};

/// The ranks that took more than Stragglers::kSlow times the (lower) median, in order.
std::vector<int> slow_ranks(const std::vector<double>& seconds);

}  // namespace thresher::trainer
