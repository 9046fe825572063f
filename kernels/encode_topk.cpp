#include "kernels/encode_topk.h"

#include <fmt/format.h>

#include <limits>
#include <vector>

#include "core/error.h"
#include "kernels/detail/backends.h"
#include "kernels/detail/bfloat16_device.h"

namespace thresher::kernels {
namespace {

void check_k(std::int64_t k, std::int64_t n_latents) {
  if (k >= 1 && k <= n_latents) return;
  throw InternalError(
      fmt::format("encode_topk: k = {}, expected 1 <= k <= n_latents = {}", k, n_latents));
}

std::vector<float> widened(const void* values, std::int64_t count) {
  const auto* from = static_cast<const std::uint16_t*>(values);
  std::vector<float> out;
  out.reserve(static_cast<std::size_t>(count));
  for (std::int64_t i = 0; i < count; ++i) out.push_back(detail::from_bfloat16(from[i]));
  return out;
}

}  // namespace

void encode_topk(const Exec& exec, const EncoderOperands& operands, const TopKSlots& main,
                 const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers) {
  THRESHER_CHECK(operands.rows >= 0 && operands.d >= 1 && operands.n_latents >= 0,
                 "the shape of an encoder product");
  THRESHER_CHECK(operands.n_latents <= std::numeric_limits<std::int32_t>::max(),
                 "a latent's index fits 32 bits");
  THRESHER_CHECK((mask == nullptr) == (masked == nullptr), "a mask and its slots come together");
  check_k(main.k, operands.n_latents);
  if (masked != nullptr) check_k(masked->k, operands.n_latents);
  if (operands.rows == 0) return;
  switch (exec.device) {
    case Device::kCpu:
      return detail::encode_topk_cpu(operands, main, mask, masked, not_numbers);
    case Device::kCuda:
      return detail::encode_topk_cuda(exec.stream, operands, main, mask, masked, not_numbers);
  }
}

namespace detail {

void encode_topk_cpu(const EncoderOperands& operands, const TopKSlots& main,
                     const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers) {
  EncoderProduct product{operands.rows, operands.d, operands.n_latents,
                         nullptr,       nullptr,    operands.b_enc};
  std::vector<float> x, W_enc;
  if (operands.type == OperandType::kBFloat16) {
    x = widened(operands.x, operands.rows * operands.d);
    W_enc = widened(operands.W_enc, operands.n_latents * operands.d);
    product.x = x.data();
    product.W_enc = W_enc.data();
  } else {
    product.x = static_cast<const float*>(operands.x);
    product.W_enc = static_cast<const float*>(operands.W_enc);
  }
  EncodeSelect select;
  *not_numbers += select.topk(product, main, mask, masked);
}

}  // namespace detail
}  // namespace thresher::kernels
