#include "trainer/stragglers.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <span>

#include "core/error.h"
#include "core/log.h"

namespace thresher::trainer {
namespace {

double lower_median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>((values.size() - 1) / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

std::vector<int> slow_ranks(const std::vector<double>& seconds) {
  std::vector<int> slow;
  if (seconds.empty()) return slow;
  const double limit = Stragglers::kSlow * lower_median(seconds);
  for (std::size_t rank = 0; rank < seconds.size(); ++rank) {
    if (seconds[rank] > limit) slow.push_back(static_cast<int>(rank));
  }
  return slow;
}

Stragglers::Stragglers(comm::Communicator& comm)
    : comm_(&comm),
      begin_(std::chrono::steady_clock::now()),
      in_calls_(comm.seconds_in_calls()),
      slow_windows_(static_cast<std::size_t>(comm.world_size()), 0) {}

std::optional<std::vector<double>> Stragglers::after_step() {
  if (comm_->world_size() == 1 || ++steps_ % kWindowSteps != 0) return std::nullopt;
  const auto now = std::chrono::steady_clock::now();
  const double mine =
      std::chrono::duration<double>(now - begin_).count() - (comm_->seconds_in_calls() - in_calls_);
  const auto all = comm_->all_gather(std::as_bytes(std::span(&mine, 1)), "seconds of the ranks");
  begin_ = std::chrono::steady_clock::now();
  in_calls_ = comm_->seconds_in_calls();
  std::vector<double> seconds(all.size());
  for (std::size_t rank = 0; rank < all.size(); ++rank) {
    THRESHER_CHECK(all[rank].size() == sizeof(double), "a rank sent another size");
    std::memcpy(&seconds[rank], all[rank].data(), sizeof(double));
  }
  const std::vector<int> slow = slow_ranks(seconds);
  for (std::size_t rank = 0; rank < seconds.size(); ++rank) {
    const bool is_slow = std::find(slow.begin(), slow.end(), static_cast<int>(rank)) != slow.end();
    slow_windows_[rank] = is_slow ? slow_windows_[rank] + 1 : 0;
    if (slow_windows_[rank] != kWindows || !comm_->is_root()) continue;
    log_warning(fmt::format(
        "rank {} computes {:.1f} times as long as the median of the ranks ({:.3g} s a step): all "
        "others wait for it (a shared core, a hot GPU, another program on its host?)",
        rank, seconds[rank] / lower_median(seconds), seconds[rank] / kWindowSteps));
  }
  return seconds;
}

}  // namespace thresher::trainer
