#pragma once

#include <cstdint>

#include "kernels/encode_select.h"
#include "kernels/topk.h"

namespace thresher::kernels {

/// What the encoder's operands are stored as; products are added in float32 either way.
enum class OperandType { kFloat32, kBFloat16 };

/// z = x W_enc + b_enc, of which only what the selection keeps is ever in memory.
struct EncoderOperands {
  std::int64_t rows = 0, d = 0, n_latents = 0;
  OperandType type = OperandType::kFloat32;  // of x and W_enc: float, or std::uint16_t
  const void* x = nullptr;                   // [rows, d]
  const void* W_enc = nullptr;               // [n_latents, d], latent-major
  const float* b_enc = nullptr;              // [n_latents]
};

/// The k largest of every row and, from the same product, the masked->k largest among the latents
/// where `mask` [n_latents] is not zero (both null: no second selection): the pairs that
/// EncodeSelect::topk gives, equal values by the lower index, NaN never selected, what is missing
/// filled up with value 0 of latent 0. The number of NaN pre-activations is added to
/// `*not_numbers`.
///
/// Everything that a pointer leads to lies on exec.device, `not_numbers` too. On CUDA the call only
/// puts work on the stream; working memory comes from the stream's memory pool, at most
/// kEncodeWorkBytes or what 128 rows need. The mask must leave at least masked->k latents: the
/// caller knows their number, the device is not asked (on the CPU InternalError). InternalError
/// unless 1 <= k <= n_latents for both.
///
/// Bits: a pre-activation depends on its row of x and its row of W_enc only. With float32 operands
/// it is, on CUDA, one chain of fused multiply-adds in the order of d, then the bias; with bfloat16
/// operands the order is the tensor core's. On the CPU it is what encode_select.h says.
void encode_topk(const Exec& exec, const EncoderOperands& operands, const TopKSlots& main,
                 const std::uint8_t* mask, const TopKSlots* masked, std::int64_t* not_numbers);

constexpr std::int64_t kEncodeWorkBytes = std::int64_t{384} << 20;

}  // namespace thresher::kernels
