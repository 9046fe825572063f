#pragma once

#include <cstdint>
#include <functional>

namespace thresher::kernels {

/// Threads that CPU kernels called from *this* thread may use, the caller included; 1 until set.
/// Every thread has its own number and its own workers, so thread ranks of one process do not meet.
/// Results never depend on it.
void set_num_threads(int threads);
int num_threads();

namespace detail {

/// Cuts [0, count) into at most num_threads() contiguous ranges of at least `grain` and runs
/// `body(begin, end)` on each; runs inline where one range remains. Rethrows the exception of the
/// lowest range that threw.
void parallel_for(std::int64_t count, std::int64_t grain,
                  const std::function<void(std::int64_t begin, std::int64_t end)>& body);

/// The same with ranges of about equal cost: `cost_before(i)` is the non-decreasing cost of items
/// [0, i) and cost_before(count) the whole. A range is as small as `grain` of cost.
void parallel_for_cost(std::int64_t count, std::int64_t grain,
                       const std::function<std::int64_t(std::int64_t)>& cost_before,
                       const std::function<void(std::int64_t begin, std::int64_t end)>& body);

}  // namespace detail
}  // namespace thresher::kernels
