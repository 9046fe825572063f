#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "cli/experiment.h"
#include "comm/communicator.h"
#include "core/json.h"

namespace thresher::cli {

/// Sizes that speed is quoted at: A, B, C and, for GPUs, G of docs/performance.md.
struct StepSize {
  std::int64_t d_in = 512, n_latents = 8192, batch_tokens = 2048, k = 32;
};
/// UsageError for another name.
StepSize step_size(const std::string& name);

struct BenchStepOptions {
  std::string variant = "topk";  // a type of the registry
  std::string device = "cpu";
  std::string size = "A";
  std::optional<std::int64_t> d_in, n_latents, batch_tokens, k;  // in place of the size's
  std::optional<double> l0;            // for variants that a bias makes sparse; else as initialised
  double dead_fraction = 0;            // latents that are dead from the start and stay so
  std::vector<std::string> overrides;  // form=bricken: fields of the SAE's entry
  std::string rows;                    // a .npy file in place of synthetic rows
  bool is_logged = false;              // with the norms that a step with a line in the log computes
  std::optional<std::int64_t> threads, lanes;  // absent: as `train` chooses them
  std::optional<std::int64_t> steps;
  double seconds = 10;  // where `steps` is absent: at least three steps, then until so long
};
/// The very step that `train` takes, on rows in memory, in the middle of a long run with a learning
/// rate so small that the SAE stays as it was set up. LibTorch's product of the encoder takes turns
/// with it, warm, into memory that is there already. Peak memory is read before that product has
/// memory of its own. On cuda times are the device's, from events around a step and a product.
/// ConfigError for sizes that cannot work, DeviceError without a GPU.
Json bench_step(const BenchStepOptions& options);
/// What bench_step returns, for people.
std::string step_table(const Json& figures);

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
