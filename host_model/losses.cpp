#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "host_model/host_model.h"

namespace thresher::host_model {
namespace {

// Logits of a chunk should stay in the cache between the passes over them.
constexpr std::int64_t kChunkLogits = 8 << 20;
constexpr std::int64_t kMinChunkRows = 32;

double sum(const float* values, std::int64_t count) {
  constexpr std::int64_t kLanes = 8;
  double lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane)
      lanes[lane] += static_cast<double>(values[i + lane]);
  }
  for (std::int64_t lane = 0; i < count; ++i, ++lane) lanes[lane] += static_cast<double>(values[i]);
  double total = 0;
  for (const double lane : lanes) total += lane;
  return total;
}

}  // namespace

at::Tensor next_token_losses(HostModel& model, const at::Tensor& rows, const at::Tensor& targets) {
  const at::NoGradGuard no_grad;
  THRESHER_CHECK(rows.dim() == 2 && targets.dim() == 1 && targets.size(0) == rows.size(0),
                 "next_token_losses: one target for each row");
  const std::int64_t n_rows = rows.size(0);
  const std::int64_t n_vocabulary = model.info().n_vocabulary;
  const at::Tensor ids = targets.to(at::kCPU, at::kLong).contiguous();
  THRESHER_CHECK(n_rows == 0 || (ids.min().item<std::int64_t>() >= 0 &&
                                 ids.max().item<std::int64_t>() < n_vocabulary),
                 "next_token_losses: a target is not in the vocabulary");
  at::Tensor losses = at::empty({n_rows}, at::kDouble);
  const std::int64_t chunk = std::max(kMinChunkRows, kChunkLogits / n_vocabulary);
  for (std::int64_t start = 0; start < n_rows; start += chunk) {
    const std::int64_t count = std::min(chunk, n_rows - start);
    at::Tensor logits = model.unembed(rows.narrow(0, start, count)).to(at::kCPU);
    const at::Tensor target_ids = ids.narrow(0, start, count);
    const at::Tensor highest = logits.amax(1);
    const at::Tensor of_target = logits.gather(1, target_ids.unsqueeze(1)).squeeze(1);
    logits.sub_(highest.unsqueeze(1)).exp_();
    const float* exponentials = logits.const_data_ptr<float>();
    const float* maxima = highest.const_data_ptr<float>();
    const at::Tensor target_logits = of_target.contiguous();
    const float* chosen = target_logits.const_data_ptr<float>();
    double* out = losses.mutable_data_ptr<double>() + start;
    at::parallel_for(0, count, 1, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t row = begin; row < end; ++row) {
        out[row] = std::log(sum(exponentials + row * n_vocabulary, n_vocabulary)) +
                   (static_cast<double>(maxima[row]) - static_cast<double>(chosen[row]));
      }
    });
  }
  return losses;
}

}  // namespace thresher::host_model
