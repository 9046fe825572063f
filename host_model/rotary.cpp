#include "host_model/rotary.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>
#include <numbers>

#include "core/error.h"

namespace thresher::host_model {
namespace {

at::Tensor scale_as_llama3(const at::Tensor& frequencies, const RopeScaling& scaling) {
  const auto original = static_cast<double>(scaling.original_context_tokens);
  const double longest_short_wave = original / scaling.high_freq_factor;
  const double shortest_long_wave = original / scaling.low_freq_factor;
  const at::Tensor waves = (2 * std::numbers::pi) / frequencies;
  const at::Tensor scaled =
      at::where(waves > shortest_long_wave, frequencies / scaling.factor, frequencies);
  const at::Tensor blend = (original / waves - scaling.low_freq_factor) /
                           (scaling.high_freq_factor - scaling.low_freq_factor);
  const at::Tensor blended = (1 - blend) * scaled / scaling.factor + blend * scaled;
  const at::Tensor is_between =
      (waves >= longest_short_wave).logical_and(waves <= shortest_long_wave);
  return at::where(is_between, blended, scaled);
}

template <class T>
void rotate(const RotaryTable& table, std::int64_t n_rotated_heads, std::int64_t d_head,
            at::Tensor& qkv) {
  // In bfloat16 each of these is an operation of its own in transformers, and rounds.
  const auto rounded = [](float value) { return static_cast<float>(static_cast<T>(value)); };
  const std::int64_t half = d_head / 2;
  const std::int64_t width = qkv.size(1);
  const float* cosines = table.cosines.const_data_ptr<float>();
  const float* sines = table.sines.const_data_ptr<float>();
  T* values = qkv.mutable_data_ptr<T>();
  at::parallel_for(0, qkv.size(0), 64, [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t token = begin; token < end; ++token) {
      const float* cosine = cosines + token * half;
      const float* sine = sines + token * half;
      for (std::int64_t head = 0; head < n_rotated_heads; ++head) {
        T* first = values + token * width + head * d_head;
        T* second = first + half;
        for (std::int64_t i = 0; i < half; ++i) {
          const auto a = static_cast<float>(first[i]);
          const auto b = static_cast<float>(second[i]);
          first[i] = static_cast<T>(rounded(a * cosine[i]) - rounded(b * sine[i]));
          second[i] = static_cast<T>(rounded(b * cosine[i]) + rounded(a * sine[i]));
        }
      }
    }
  });
}

}  // namespace

at::Tensor rotary_frequencies(std::int64_t d_head, double base, const RopeScaling& scaling) {
  const at::Tensor exponents = at::arange(0, d_head, 2, at::kFloat) / static_cast<double>(d_head);
  const at::Tensor frequencies = at::reciprocal(at::pow(at::Scalar(base), exponents));
  switch (scaling.type) {
    case RopeScaling::Type::kNone:
      return frequencies;
    case RopeScaling::Type::kLinear:
      return frequencies / scaling.factor;
    case RopeScaling::Type::kLlama3:
      return scale_as_llama3(frequencies, scaling);
    case RopeScaling::Type::kDivisors:
      return frequencies / at::tensor(scaling.divisors);
  }
  THRESHER_CHECK(false, "rotary scaling of an unknown type");
  return {};
}

RotaryTable make_rotary_table(const at::Tensor& positions, const at::Tensor& frequencies,
                              Dtype dtype) {
  const at::Tensor angles = at::outer(positions.reshape({-1}).to(at::kFloat), frequencies);
  if (dtype == Dtype::kFloat32) return {at::cos(angles), at::sin(angles)};
  const auto rounded = [](const at::Tensor& values) {
    return values.to(at::kBFloat16).to(at::kFloat);
  };
  return {rounded(at::cos(angles)), rounded(at::sin(angles))};
}

void apply_rotary_by_operators(const RotaryTable& table, std::int64_t n_rotated_heads,
                               std::int64_t d_head, at::Tensor& qkv) {
  const std::int64_t half = d_head / 2;
  const at::Tensor heads =
      qkv.narrow(1, 0, n_rotated_heads * d_head).view({qkv.size(0), n_rotated_heads, 2, half});
  // The table of a bfloat16 model holds bfloat16 values.
  const at::Tensor cosines = table.cosines.to(qkv.scalar_type()).unsqueeze(1);
  const at::Tensor sines = table.sines.to(qkv.scalar_type()).unsqueeze(1);
  const at::Tensor a = heads.select(2, 0), b = heads.select(2, 1);
  const at::Tensor first = a * cosines - b * sines;
  const at::Tensor second = b * cosines + a * sines;
  a.copy_(first);
  b.copy_(second);
}

void apply_rotary(const RotaryTable& table, std::int64_t n_rotated_heads, std::int64_t d_head,
                  at::Tensor& qkv) {
  if (!qkv.is_cpu()) return apply_rotary_by_operators(table, n_rotated_heads, d_head, qkv);
  if (qkv.scalar_type() == at::kBFloat16) {
    rotate<at::BFloat16>(table, n_rotated_heads, d_head, qkv);
  } else {
    rotate<float>(table, n_rotated_heads, d_head, qkv);
  }
}

}  // namespace thresher::host_model
