#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "cli/experiment.h"
#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::cli {

struct BenchStepOptions {
  std::string sae = "topk";  // a type of the registry
  std::string device = "cpu";
  std::int64_t d_in = 576;
  std::int64_t n_latents = 2304;
  std::int64_t batch_tokens = 1024;
  std::int64_t k = 32;  // topk only
  std::int64_t threads = 1;
  std::int64_t lanes = 8;
  std::int64_t steps = 20;
};
/// The very step that `train` takes, on random rows; the encoder's product is timed between steps,
/// warm, into memory that is there already. ConfigError for sizes that cannot work.
Json bench_step(const BenchStepOptions& options);

/// Reads `steps` batches (0: an epoch) of a complete cache as training would, this rank's lanes.
Json bench_loader(const Experiment& experiment, std::int64_t steps, comm::Communicator& comm);

/// The host model's forward pass up to the deepest hook point, in batches of about 4k tokens.
Json bench_harvest(const Experiment& experiment, std::int64_t steps, comm::Communicator& comm);

/// all_reduce_sum of `bytes` bytes of float32.
Json bench_comm(std::int64_t bytes, std::int64_t repeats, comm::Communicator& comm);

/// {"min", "median", "max"} of at least one time in seconds.
Json seconds_summary(std::vector<double> seconds);
double median(std::vector<double> values);
/// Peak resident memory of this process so far.
std::int64_t peak_rss_bytes();

}  // namespace thresher::cli
