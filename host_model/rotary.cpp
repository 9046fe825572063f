#include "host_model/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

namespace thresher::host_model {

RotaryTable make_rotary_table(const at::Tensor& positions, std::int64_t d_head, double base) {
  const at::Tensor exponents = at::arange(0, d_head, 2, at::kFloat) / static_cast<double>(d_head);
  const at::Tensor frequencies = at::reciprocal(at::pow(at::Scalar(base), exponents));
  const at::Tensor angles = at::outer(positions.reshape({-1}).to(at::kFloat), frequencies);
  return {at::cos(angles), at::sin(angles)};
}

void apply_rotary(const RotaryTable& table, std::int64_t n_rotated_heads, std::int64_t d_head,
                  at::Tensor& qkv) {
  const std::int64_t half = d_head / 2;
  const std::int64_t width = qkv.size(1);
  const float* cosines = table.cosines.const_data_ptr<float>();
  const float* sines = table.sines.const_data_ptr<float>();
  float* values = qkv.mutable_data_ptr<float>();
  at::parallel_for(0, qkv.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const float* cosine = cosines + token * half;
      const float* sine = sines + token * half;
      for (std::int64_t head = 0; head < n_rotated_heads; ++head) {
        float* first = values + token * width + head * d_head;
        float* second = first + half;
        for (std::int64_t i = 0; i < half; ++i) {
          const float a = first[i];
          const float b = second[i];
          first[i] = a * cosine[i] - b * sine[i];
          second[i] = b * cosine[i] + a * sine[i];
        }
      }
    }
  });
}

}  // namespace thresher::host_model
