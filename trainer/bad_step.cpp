#include "trainer/bad_step.h"

#include <ATen/ATen.h>
#include <fmt/format.h>

#include <cmath>
#include <limits>
#include <span>

#include "core/files.h"
#include "core/safetensors.h"

namespace thresher::trainer {
namespace {

constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();

/// Position of the first non-finite value, or kNone.
std::int64_t first_bad_value(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.contiguous().to(at::kCPU);
  const float* values = flat.data_ptr<float>();
  for (std::int64_t i = 0; i < flat.numel(); ++i) {
    if (!std::isfinite(values[i])) return i;
  }
  return kNone;
}

std::string bad_place(sae::TrainingSae& sae, const std::vector<at::Tensor>& lanes,
                      comm::Communicator& comm) {
  const auto n_lanes = static_cast<std::int64_t>(lanes.size());
  std::int64_t bad_row = kNone;  // of the global batch
  for (std::int64_t i = n_lanes - 1; i >= 0; --i) {
    const std::int64_t at = first_bad_value(lanes[i]);
    if (at == kNone) continue;
    const std::int64_t rows = lanes[i].size(0);
    bad_row = (comm.rank() * n_lanes + i) * rows + at / lanes[i].size(1);
  }
  comm.all_reduce_min({&bad_row, 1}, "step.first_bad_row");
  if (bad_row != kNone) {
    const std::int64_t rows = lanes.front().size(0);
    return fmt::format("the input, lane {} row {}", bad_row / rows, bad_row % rows);
  }
  for (const sae::Parameter& parameter : sae.parameters()) {
    if (first_bad_value(parameter.weight) != kNone) {
      return fmt::format("the weight {}", parameter.name);
    }
  }
  for (const sae::Parameter& parameter : sae.parameters()) {
    if (first_bad_value(parameter.gradient) != kNone) {
      return fmt::format("the gradient of {}", parameter.name);
    }
  }
  return "the sum of squared gradients, which overflows";
}

void write_lanes(const std::filesystem::path& path, const std::vector<at::Tensor>& lanes,
                 std::int64_t first_lane) {
  std::vector<at::Tensor> kept;
  std::vector<SafetensorsTensor> tensors;
  for (std::size_t i = 0; i < lanes.size(); ++i) {
    const at::Tensor& lane = kept.emplace_back(lanes[i].contiguous().to(at::kCPU));
    tensors.push_back({fmt::format("lane.{}", first_lane + static_cast<std::int64_t>(i)),
                       "F32",
                       lane.sizes().vec(),
                       {static_cast<const std::byte*>(lane.data_ptr()),
                        static_cast<std::size_t>(lane.nbytes())}});
  }
  write_safetensors_atomically(path, tensors);
}

}  // namespace

BadStep::BadStep(const std::string& sae_name, std::int64_t bad_step, const std::string& bad_place)
    : DataError(
          fmt::format(
              "SAE {}, step {}: the gradient norm is not finite; the first bad value is in {}",
              sae_name, bad_step, bad_place),
          "finite activations, weights and gradients; nothing was updated by this step",
          "if the input is at fault, verify the cache (thresher cache verify DIR); else lower "
          "train.learning_rate"),
      sae(sae_name),
      step(bad_step),
      place(bad_place) {}

BadStep describe_bad_step(sae::TrainingSae& sae, std::int64_t step,
                          const std::vector<at::Tensor>& lanes, comm::Communicator& comm) {
  return {sae.config().name, step, bad_place(sae, lanes, comm)};
}

std::filesystem::path keep_bad_step(const std::filesystem::path& run_dir, const BadStep& bad,
                                    const std::vector<at::Tensor>& lanes, const Json& identity,
                                    comm::Communicator& comm) {
  const auto folder = run_dir / "bad-steps" / fmt::format("step-{:08}-{}", bad.step, bad.sae);
  const std::int64_t first_lane = comm.rank() * static_cast<std::int64_t>(lanes.size());
  comm.agree(
      [&] {
        make_folders(folder);
        write_lanes(folder / fmt::format("lanes-{:05}.safetensors", first_lane), lanes, first_lane);
        if (!comm.is_root()) return;
        const Json record = Json::object({{"sae", bad.sae},
                                          {"step", bad.step},
                                          {"first_bad_value", bad.place},
                                          {"ranks", comm.world_size()},
                                          {"identity", identity}});
        write_file_atomically(folder / "record.json", record.dump(2) + "\n");
      },
      "keep the bad step");
  return folder;
}

}  // namespace thresher::trainer
