#pragma once

#include <vector>

#include "tests/kernels/backend.h"

namespace thresher::kernels {

Backend* cpu_backend();          // what runs in training on a CPU
Backend* device_code_backend();  // the algorithms of the CUDA kernels, thread by thread on the CPU
Backend* cuda_backend();

/// The lanes as the kernels take them.
struct LaneViews {
  LaneViews(std::span<const Lane> lanes, std::int64_t n_latents) {
    sorted.reserve(lanes.size());
    for (const Lane& lane : lanes) {
      sorted.emplace_back(lane, n_latents);
      pairs.push_back(sorted.back().view(lane));
    }
  }
  std::vector<SortedLane> sorted;
  std::vector<LatentPairs> pairs;
};

}  // namespace thresher::kernels
