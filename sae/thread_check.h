#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace thresher::sae {

/// A computation whose bits must not depend on the number of threads.
struct ThreadProbe {
  std::string name;  // as a warning names it, "decode [128, 2304] x [2304, 576]"
  std::function<at::Tensor()> run;
};

/// The products of a training step on one lane: `lane_rows` tokens, weights [d_in, n_latents] and
/// back. Inputs are fixed pseudo-random numbers.
std::vector<ThreadProbe> training_products(std::int64_t lane_rows, std::int64_t d_in,
                                           std::int64_t n_latents);

/// Names of the probes whose bits with `threads` threads are not those with one. Leaves the number
/// of threads of the calling thread as it was.
std::vector<std::string> probes_that_differ(const std::vector<ThreadProbe>& probes, int threads);

/// How many threads the calling thread may give to LibTorch: `threads`, or 1 after a warning where
/// a product of a step of this shape has other bits with `threads` threads than with one
/// (docs/decisions/0001). Costs about one training step; nothing for one thread. Does not set the
/// number.
int threads_with_fixed_bits(std::int64_t lane_rows, std::int64_t d_in, std::int64_t n_latents,
                            int threads);

}  // namespace thresher::sae
