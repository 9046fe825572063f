#include "host_model/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace thresher::host_model {
namespace {

constexpr std::int64_t kLanes = 16;

float sum_of_squares(const float* x, std::int64_t width) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) lanes[lane] += x[i + lane] * x[i + lane];
  }
  for (std::int64_t lane = 0; i < width; ++i, ++lane) lanes[lane] += x[i] * x[i];
  double sum = 0;
  for (const float lane : lanes) sum += static_cast<double>(lane);
  return static_cast<float>(sum);
}

}  // namespace

void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out) {
  const std::int64_t width = x.size(1);
  const float* in = x.const_data_ptr<float>();
  const float* gains = weight.defined() ? weight.const_data_ptr<float>() : nullptr;
  float* values = out.mutable_data_ptr<float>();
  at::parallel_for(0, x.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const float* from = in + row * width;
      float* to = values + row * width;
      const float mean = sum_of_squares(from, width) / static_cast<float>(width);
      const float scale = 1.0F / std::sqrt(mean + static_cast<float>(epsilon));
      for (std::int64_t i = 0; i < width; ++i) to[i] = from[i] * scale;
      if (gains == nullptr) continue;
      for (std::int64_t i = 0; i < width; ++i) to[i] *= gains[i];
    }
  });
}

}  // namespace thresher::host_model
