#pragma once

#include <ATen/ATen.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "comm/communicator.h"
#include "sae/jumprelu_config.h"
#include "sae/training_sae.h"

namespace thresher::sae::testing {

/// Standard normal float32 values that depend on (seed, shape) alone.
at::Tensor normal_values(std::vector<std::int64_t> shape, std::uint64_t seed);

/// Row-block `lane` of `n_lanes` equal blocks, in memory of its own.
at::Tensor lane_rows(const at::Tensor& batch, std::int64_t lane, std::int64_t n_lanes);

/// The SAEs that shared tests run on: every type of the registry in every form: "topk",
/// "topk_annealed", "relu_l1", "relu_l1_bricken", "jumprelu_gdm", and so on. The config has name
/// "a" and no hook point.
std::vector<std::string> cases();
std::unique_ptr<SaeConfig> config_of_case(const std::string& name);

/// One step up to the reduced gradients: the rank's share of `batch`, cut into `n_lanes` lanes over
/// all ranks.
void compute_gradients(TrainingSae& sae, const StepInfo& info, const at::Tensor& batch,
                       std::int64_t n_lanes, comm::Communicator& comm);

/// Trains with Adam (learning rate 1e-2) on batches drawn from a seed; returns each step's figures
/// as one line.
std::vector<std::string> train(TrainingSae& sae, std::int64_t steps, std::int64_t batch_tokens,
                               std::int64_t dead_window_tokens, std::int64_t n_lanes,
                               comm::Communicator& comm);

/// Parameters and buffers as bytes, for comparing bits.
std::string state_bytes(TrainingSae& sae);

/// Largest absolute difference, divided by the largest absolute value of `expected`.
double relative_difference(const at::Tensor& actual, const at::Tensor& expected);

/// The message's first line of what `work` throws; "no error" if nothing.
template <class Work>
std::string first_line_of(Work&& work);

}  // namespace thresher::sae::testing

#include "core/error.h"

template <class Work>
std::string thresher::sae::testing::first_line_of(Work&& work) {
  try {
    work();
  } catch (const Error& error) {
    return error.first_line();
  }
  return "no error";
}
