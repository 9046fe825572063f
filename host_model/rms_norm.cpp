#include "host_model/rms_norm.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace thresher::host_model {
namespace {

constexpr std::int64_t kLanes = 16;

template <class T>
float sum_of_squares(const T* x, std::int64_t width) {
  float lanes[kLanes] = {};
  std::int64_t i = 0;
  const auto add = [&](std::int64_t at, std::int64_t lane) {
    const auto value = static_cast<float>(x[at]);
    lanes[lane] += value * value;
  };
  for (; i + kLanes <= width; i += kLanes) {
    for (std::int64_t lane = 0; lane < kLanes; ++lane) add(i + lane, lane);
  }
  for (std::int64_t lane = 0; i < width; ++i, ++lane) add(i, lane);
  double sum = 0;
  for (const float lane : lanes) sum += static_cast<double>(lane);
  return static_cast<float>(sum);
}

template <class T>
void normalise(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out) {
  const std::int64_t width = x.size(1);
  const T* in = x.const_data_ptr<T>();
  const T* gains = weight.defined() ? weight.const_data_ptr<T>() : nullptr;
  T* values = out.mutable_data_ptr<T>();
  at::parallel_for(0, x.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t row = begin; row < end; ++row) {
      const T* from = in + row * width;
      T* to = values + row * width;
      const float mean = sum_of_squares(from, width) / static_cast<float>(width);
      const float scale = 1.0F / std::sqrt(mean + static_cast<float>(epsilon));
      for (std::int64_t i = 0; i < width; ++i) {
        to[i] = static_cast<T>(static_cast<float>(from[i]) * scale);
      }
      if (gains == nullptr) continue;
      for (std::int64_t i = 0; i < width; ++i) {
        to[i] = static_cast<T>(static_cast<float>(to[i]) * static_cast<float>(gains[i]));
      }
    }
  });
}

}  // namespace

void rms_norm_by_operators(const at::Tensor& x, const at::Tensor& weight, double epsilon,
                           at::Tensor& out) {
  const at::Tensor wide = x.to(at::kFloat);
  const at::Tensor scale = at::rsqrt(wide.square().mean(1, /*keepdim=*/true) + epsilon);
  const at::Tensor normed = (wide * scale).to(x.scalar_type());
  out.copy_(weight.defined() ? normed * weight : normed);
}

void rms_norm(const at::Tensor& x, const at::Tensor& weight, double epsilon, at::Tensor& out) {
  if (!x.is_cpu()) return rms_norm_by_operators(x, weight, epsilon, out);
  if (x.scalar_type() == at::kBFloat16) {
    normalise<at::BFloat16>(x, weight, epsilon, out);
  } else {
    normalise<float>(x, weight, epsilon, out);
  }
}

}  // namespace thresher::host_model
