#include "sae/resampling.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace thresher::sae {

std::vector<std::int64_t> draw_without_replacement(std::span<const double> weights,
                                                   std::int64_t count, const RandomStream& stream,
                                                   std::uint64_t first_draw) {
  std::vector<std::pair<double, std::int64_t>> times;
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (!(weights[i] > 0)) continue;
    const double time = -std::log1p(-stream.uniform(first_draw + i)) / weights[i];
    times.emplace_back(time, static_cast<std::int64_t>(i));
  }
  std::sort(times.begin(), times.end());  // equal times by index
  std::vector<std::int64_t> drawn;
  for (const auto& [time, index] : times) {
    if (static_cast<std::int64_t>(drawn.size()) == count) break;
    drawn.push_back(index);
  }
  return drawn;
}

}  // namespace thresher::sae
